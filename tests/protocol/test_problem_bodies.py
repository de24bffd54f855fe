"""The body of a problem, which has one maker, and the codes of those that only repeat the HTTP status."""

import re
from http import HTTPStatus
from pathlib import Path

import pytest

import gateway
from gateway.protocol.problems import NO_TYPE, problem, problem_code

PACKAGE = Path(gateway.__file__).parent

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "validation_error",
    426: "upgrade_required",
    429: "too_many_requests",
    431: "request_header_fields_too_large",
    500: "internal_error",
    503: "service_unavailable",
}


def test_a_problem_has_field_errors_only_if_fields_are_invalid() -> None:
    body = problem(NO_TYPE, 404, "not_found", "Not Found", "There is no such page.")
    assert list(body) == ["type", "title", "status", "detail", "code"]
    errors = [{"field": "to", "message": "it is missing"}]
    assert problem(NO_TYPE, 422, "invalid", "Invalid", "to: it is missing", errors)["errors"] == errors


def test_only_one_module_creates_problem_bodies() -> None:
    makers = [path for path in PACKAGE.rglob("*.py") if re.search(r"application/problem", path.read_text())]
    assert makers == [PACKAGE / "protocol" / "problems.py"]


def test_the_code_of_a_status_is_the_same_in_each_version_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {status: problem_code(status) for status in CODES} == CODES
    for status in HTTPStatus:  # Python 3.13 has other phrases for 413, 414, 416 and 422 than 3.11
        monkeypatch.setattr(status, "phrase", "Another Phrase")
    assert {status: problem_code(HTTPStatus(status)) for status in CODES} == CODES


def test_each_status_of_a_refusal_before_the_application_has_a_code_of_its_own() -> None:
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"(?:Refused|_refuse|answer_of|bare_problem)\(\s*HTTPStatus\.(\w+)", source))
    assert {"BAD_REQUEST", "REQUEST_URI_TOO_LONG", "TOO_MANY_REQUESTS", "SERVICE_UNAVAILABLE"} <= named
    assert {HTTPStatus[name] for name in named} <= CODES.keys()


@pytest.mark.parametrize(("status", "code"), [(418, "bad_request"), (505, "internal_error")])
def test_a_status_without_its_own_code_has_the_code_of_its_class(status: int, code: str) -> None:
    assert problem_code(status) == code
