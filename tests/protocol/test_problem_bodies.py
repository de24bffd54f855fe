"""The body of a problem, which has one maker."""

import re
from pathlib import Path

import gateway
from gateway.protocol.problems import NO_TYPE, problem


def test_a_problem_names_its_fields_only_where_some_are_wrong() -> None:
    body = problem(NO_TYPE, 404, "not_found", "Not Found", "There is no such page.")
    assert list(body) == ["type", "title", "status", "detail", "code"]
    errors = [{"field": "to", "message": "it is missing"}]
    assert problem(NO_TYPE, 422, "invalid", "Invalid", "to: it is missing", errors)["errors"] == errors


def test_nobody_else_makes_a_problem() -> None:
    package = Path(gateway.__file__).parent
    makers = [path for path in package.rglob("*.py") if re.search(r"application/problem", path.read_text())]
    assert makers == [package / "protocol" / "problems.py"]
