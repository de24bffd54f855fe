"""The words for a rule: each has some, and none are a library's."""

import json
import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from gateway.api.batch import MAX_POSTS
from gateway.api.json_route import Body
from gateway.app import create_app
from gateway.settings import Settings, SettingsError, load_settings
from gateway.settings.trusted_issuer import TrustedIssuer
from gateway.settings.wording import MAX_NAME_LENGTH, PATTERNS, nearest, rule, unknown_member
from tests.support.databases import settings_for

FOREIGN = re.compile(
    r"Input should|String should|should (have|be)|Field required|Extra inputs|unable to|\^|\[a-z"
)
WRONG: tuple[Any, ...] = (None, True, 5, -1, 2**70, 1.5, "", "x" * 5000, "Ä ^", [], {}, [1], [None] * 2000)


def bodies(base: type[Body] = Body) -> list[type[Body]]:
    create_app(settings_for("sqlite:///unused.db"))
    found = [one for sub in base.__subclasses__() for one in (sub, *bodies(sub))]
    return [one for one in found if one.model_fields]


@pytest.mark.parametrize("model", [*bodies(), TrustedIssuer], ids=lambda model: model.__name__)
def test_each_validation_error_of_each_body_has_our_own_wording(model: type[BaseModel]) -> None:
    said: set[str] = set()
    for name in model.model_fields:
        for wrong in WRONG:
            try:
                model.model_validate_json(json.dumps({name: wrong, "odd": 1}))
            except ValidationError as error:
                said |= {rule(one) for one in error.errors()}
    assert said
    assert [one for one in sorted(said) if FOREIGN.search(one) or "wrong type or form" in one] == []


def test_every_pattern_of_the_api_and_the_settings_has_a_description() -> None:
    document = json.dumps(create_app(settings_for("sqlite:///unused.db")).openapi())
    patterns = {json.loads(f'"{one}"') for one in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', document)}
    patterns |= {
        one.pattern
        for field in Settings.model_fields.values()
        for one in field.metadata
        if hasattr(one, "pattern")
    }
    # That of a query parameter which is read by hand, and only documented.
    assert patterns - PATTERNS.keys() == {"^(latest|[0-9]+)$"}
    assert len(patterns) > 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("port", "http", "GATEWAY_PORT: it must be a whole number"),
        ("port", "70000", "GATEWAY_PORT: it must be at most 65,535"),
        ("workers", "0", "GATEWAY_WORKERS: it must be at least 1"),
        ("access_log", "maybe", "GATEWAY_ACCESS_LOG: it must be true or false"),
        ("log_level", "loud", "GATEWAY_LOG_LEVEL: it must be debug, info, warning or error"),
        ("log_format", "xml", "GATEWAY_LOG_FORMAT: it must be one of 'console' or 'json'"),
        ("reconcile_interval", "soon", "GATEWAY_RECONCILE_INTERVAL: it must be a number of seconds"),
        (
            "trusted_issuers",
            '[{"issuer": "a", "audience": "b", "jwks_uri": "https://a.example/"}]',
            "GATEWAY_TRUSTED_ISSUERS: 0.jwks_uri: there is no such member: did you mean jwks_url?",
        ),
        (
            "trusted_issuers",
            '[{"issuer": "a", "audience": "b", "jwks_url": "https://a.example/", "subject_prefx": "c"}]',
            "GATEWAY_TRUSTED_ISSUERS: 0.subject_prefx: there is no such member: did you mean subject_prefix?",
        ),
    ],
)
def test_an_invalid_setting_reports_its_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == said


def test_an_overlong_name_gets_no_suggestion() -> None:
    assert nearest("titel", ["to", "title"]) == "title"
    assert nearest("t" * (MAX_NAME_LENGTH + 1), ["t" * (MAX_NAME_LENGTH + 1)]) is None
    assert unknown_member("zzz", ()) == "there is no such member: leave it out"


EDITABLE = [
    *("actions", "body", "data", "deliver_at", "expires_at", "icon", "priority", "renotify", "title", "url"),
]


@pytest.mark.parametrize("name", ["ttl", "timeToLive", "state", "to", "category", "x"])
def test_a_member_that_is_only_a_little_similar_is_not_suggested(name: str) -> None:
    assert unknown_member(name, EDITABLE) == f"there is no such member, only {', '.join(EDITABLE)}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("titel", "title"),
        ("Title", "title"),
        ("deliverAt", "deliver_at"),
        ("expires", "expires_at"),
        ("action", "actions"),
        ("re_notify", "renotify"),
    ],
)
def test_a_member_that_is_very_similar_is_suggested(name: str, meant: str) -> None:
    assert unknown_member(name, EDITABLE) == f"there is no such member: did you mean {meant}?"


def test_a_batch_holds_at_most_1000_notifications() -> None:
    assert MAX_POSTS == 1000
