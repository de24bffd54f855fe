"""What people get wrong first, and what they are told: what is wrong, where, and what to do."""

import io
import json
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from gateway import cli, web
from gateway.auth.services import new_key
from gateway.settings import SettingsError, load_settings
from tests.support.clients import open_socket
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, serving

POSTS, BATCH, USERS = "/v1/notifications", "/v1/notifications/batch", "/v1/users"
JSON, LINES = {"Content-Type": "application/json"}, {"Content-Type": "application/x-ndjson"}

FOREIGN = re.compile(
    r"Traceback|Input should|String should|Field required|Extra inputs|\^\[|Expecting|expected value"
    r"|Errno|Error\(|object at 0x|pydantic|sqlalchemy|None\b|<class"
)
"""What no person is told: a library's words, or the names of its parts."""


def check(said: str, *wanted: str) -> None:
    """See that all that is wanted is said, in a line of bounded length, in words of ours."""
    assert [one for one in wanted if one not in said] == [], said
    assert FOREIGN.search(said) is None, said
    assert "\n" not in said
    assert len(said) < 1000


# --- the API ------------------------------------------------------------------------------------------------

GOOD = {"to": "ada", "title": "Hello"}


def post(**fields: Any) -> dict[str, Any]:
    """Return what a service posts, with these fields instead of good ones; None leaves one out."""
    return {"json": {name: value for name, value in (GOOD | fields).items() if value is not None}}


Mistake = tuple[str, str, str, dict[str, Any], int, tuple[str, ...]]

BY_A_SERVICE: dict[str, Mistake] = {
    name: ("POST", path, "service", options, status, said)
    for name, path, options, status, said in (
        ("no title", POSTS, post(title=None), 422, ("title: it is required",)),
        ("titel", POSTS, post(titel="x"), 422, ("titel: there is no such member: did you mean title?",)),
        (
            "user for to",
            POSTS,
            post(to=None, user="ada"),
            422,
            ("user: there is no such member, only", "to: it is"),
        ),
        ("no recipient", POSTS, post(to=None), 422, ("to: it is required",)),
        (
            "a number as recipient",
            POSTS,
            post(to=7),
            422,
            ("to: it must be the id of a user, or a list of 1 to",),
        ),
        (
            "an empty list",
            POSTS,
            post(to=[]),
            422,
            ("to: it must be the id of a user, or a list of 1 to 1,000",),
        ),
        ("everybody by *", POSTS, post(to="*"), 422, ("to: '*' is not a user: name each",)),
        (
            "everybody by all",
            POSTS,
            post(to="all"),
            422,
            ("to: there is no user 'all', and it does not", "name each"),
        ),
        ("an empty title", POSTS, post(title=""), 422, ("title: it must have at least 1 character",)),
        ("a long title", POSTS, post(title="x" * 201), 422, ("title: it must have at most 200 characters",)),
        ("a long body", POSTS, post(body="x" * 4001), 422, ("body: it must have at most 4,000 characters",)),
        (
            "a category of words",
            POSTS,
            post(category="Our News"),
            422,
            ("category: it must have only small", ". _ -"),
        ),
        (
            "a priority",
            POSTS,
            post(priority="hihg"),
            422,
            ("priority: it must be one of 'low', 'normal', 'high'",),
        ),
        (
            "a bare path",
            POSTS,
            post(url="orders/1"),
            422,
            ("url: it must be an absolute http or https URL, or a path",),
        ),
        ("data as text", POSTS, post(data='{"a": 1}'), 422, ("data: it must be a JSON object",)),
        (
            "too much data",
            POSTS,
            post(data={"a": "x" * 9000}),
            422,
            ("data: it must have at most 8,192 bytes",),
        ),
        (
            "no Content-Type",
            POSTS,
            {"content": json.dumps(GOOD)},
            422,
            ("body: it must come with Content-Type: appl",),
        ),
        ("a form", POSTS, {"data": GOOD}, 422, ("body: it must come with Content-Type: application/json",)),
        (
            "no body",
            POSTS,
            {"content": "", "headers": JSON},
            422,
            ("body: it is empty",),
        ),
        (
            "single quotes",
            POSTS,
            {"content": "{'to': 'ada'}", "headers": JSON},
            422,
            ("column 2: a name in double q",),
        ),
        (
            "a comma too many",
            POSTS,
            {"content": '{"to": "ada",}', "headers": JSON},
            422,
            ("line 1, column 14: nothing follows the comma: take it out",),
        ),
        (
            "one post to batch",
            BATCH,
            {"json": GOOD},
            422,
            ("body: it is not a JSON array: send the array itself",),
        ),
        (
            "an empty batch",
            BATCH,
            {"json": []},
            422,
            ("body: it must be a list of 1 to 1,000 notifications",),
        ),
        (
            "an object with the array",
            BATCH,
            {"json": {"items": [GOOD]}},
            422,
            ("body: it is not a JSON array: send the array itself",),
        ),
        ("a bad second item", BATCH, {"json": [GOOD, {"to": "ada"}]}, 422, ("1.title: it is required",)),
        (
            "a bad line",
            BATCH,
            {"content": '\n{"to": "ada"}\n', "headers": LINES},
            422,
            ("line 2, title: it is required",),
        ),
        (
            "gzip",
            POSTS,
            {"content": b"x", "headers": JSON | {"Content-Encoding": "gzip"}},
            415,
            ("without Content-Enc",),
        ),
        ("no /v1", "/notifications", post(), 404, ("did you mean /v1/notifications?",)),
        ("one letter less", "/v1/users/ada/token", {}, 404, ("did you mean /v1/users/{sub}/tokens?",)),
        (
            "one letter more",
            "/v1/services/x/keyss",
            {},
            404,
            ("did you mean /v1/services/{client_id}/keys?",),
        ),
        (
            "a batch that is none",
            f"{BATCH}s",
            post(),
            405,
            (": DELETE, GET, HEAD, PATCH. Did you mean /v1/notifications/batch?",),
        ),
        (
            "a batch of one",
            f"{POSTS}/1",
            post(),
            405,
            ("This path takes another method: DELETE, GET, HEAD, PATCH.",),
        ),
        (
            "a scope",
            "/v1/services",
            {"json": {"name": "x", "scopes": ["Notify"]}},
            422,
            ("did you mean 'notify'?",),
        ),
        ("a priority in capitals", POSTS, post(priority="High"), 422, ("'urgent': did you mean 'high'?",)),
        ("a priority of another kind", POSTS, post(priority="9"), 422, ("'high' or 'urgent'",)),
        ("two /v1", "/v1/v1/notifications", post(), 404, ("did you mean /v1/notifications?",)),
        ("a slash at the end", f"{POSTS}/", post(), 404, ("did you mean /v1/notifications?",)),
        ("the inbox by POST", "/v1/inbox", post(), 405, ("another method: GET, HEAD",)),
        (
            "a key at the inbox",
            "/v1/inbox/seen",
            {"json": {"up_to": 1}},
            403,
            ("a user's access token", "not the key"),
        ),
        (
            "the same user twice",
            USERS,
            {"json": {"sub": "bob"}},
            409,
            ("There is a user with this sub already", "PATCH"),
        ),
        (
            "a common password",
            USERS,
            {"json": {"sub": "eve", "password": "password1234"}},
            422,
            ("password: it is a c",),
        ),
        (
            "a short password",
            USERS,
            {"json": {"sub": "eve", "password": "x"}},
            422,
            ("at least 12 characters",),
        ),
        (
            "a wrong scope",
            "/v1/services",
            {"json": {"name": "x", "scopes": ["post"]}},
            422,
            ("scopes.0", "'notify'"),
        ),
        (
            "a token for ever",
            f"{USERS}/ada/tokens",
            {"json": {"ttl": 10**9}},
            422,
            ("ttl: it must be at most 86,400",),
        ),
        ("an unknown service", "/v1/services/shop/keys", {}, 404, ("There is no such service",)),
    )
}

BY_A_USER: dict[str, Mistake] = {
    name: ("GET", path, "user", {}, status, said)
    for name, path, status, said in (
        ("a limit", "/v1/inbox?limit=500", 422, ("limit: it must be at most 200",)),
        ("a made-up cursor", "/v1/inbox?cursor=2", 422, ("cursor: it must be the `next` of a page",)),
        ("unread=maybe", "/v1/inbox?unread=maybe", 422, ("unread: it must be true or false",)),
        (
            "an empty category",
            "/v1/inbox?category=",
            422,
            ("category: it must have at least 1 character",),
        ),
        (
            "a category of words as a filter",
            "/v1/inbox?category=My%20X",
            422,
            ("category: it must have only small letters, digits, . _ -",),
        ),
        (
            "a parameter by another name",
            "/v1/inbox?catgeory=x",
            422,
            ("catgeory: there is no such parameter: did you mean category?",),
        ),
        (
            "a parameter in another case",
            "/v1/inbox?Unread=true",
            422,
            ("Unread: there is no such parameter: did you mean unread?",),
        ),
        (
            "a parameter of another gateway",
            "/v1/inbox/changes?page=2",
            422,
            ("page: there is no such parameter, only epoch, limit, since",),
        ),
        ("a limit given twice", "/v1/inbox?limit=10&limit=20", 422, ("limit: it comes more than once",)),
        ("a value without a name", "/v1/inbox?=1", 422, ("query: there is no such parameter, only",)),
        ("no position", "/v1/inbox/changes?since=x", 422, ("since: it must be a whole number",)),
        (
            "an item of another",
            "/v1/inbox/01936f00-0000-7000-8000-000000000001",
            404,
            ("There is no such",),
        ),
        ("the socket as a page", "/v1/ws", 426, ("Open it with a WebSocket client",)),
    )
} | {
    "nothing to change": (
        "PATCH",
        "/v1/inbox/x",
        "user",
        {"json": {}},
        422,
        ("it must have read, archived or snoozed_until",),
    ),
    "nothing read": (
        "POST",
        "/v1/inbox/read",
        "user",
        {"json": {}},
        422,
        ("it must have ids or up_to, and not both",),
    ),
    "a user posts": ("POST", POSTS, "user", post(), 403, ("a service with the scope 'notify', not a user",)),
}

SIGN_IN = "/v1/auth/token"
BY_A_STRANGER: dict[str, Mistake] = {
    name: ("POST", path, header, options, status, said)
    for name, path, header, options, status, said in (
        ("no key", POSTS, "", post(), 401, ("A token or an API key is needed", "'Authorization: Bearer …'")),
        (
            "a bare key",
            POSTS,
            new_key()[2],
            post(),
            401,
            ("The API key came without the word Bearer", "Bearer ngk_…'"),
        ),
        (
            "Basic",
            POSTS,
            "Basic eDp5",
            post(),
            401,
            ("Basic is for /v1/auth/token", "'Authorization: Bearer …'"),
        ),
        (
            "a cut key",
            POSTS,
            f"Bearer {new_key()[2][:-3]}",
            post(),
            401,
            ("The API key is incomplete", "send all of it"),
        ),
        (
            "an old key",
            POSTS,
            f"Bearer {new_key()[2]}",
            post(),
            401,
            ("The API key", "it was deleted", "key add SERVICE"),
        ),
        (
            "a token with many groups",
            "/v1/inbox/seen",
            f"Bearer {'secret' * 2000}.x.y",
            {},
            401,
            ("The token is too long: it must have at most 8,192 characters", "groups"),
        ),
        (
            "a secret",
            POSTS,
            "Bearer s3cret",
            post(),
            401,
            ("an access token", "an API key (ngk_…)"),
        ),
        (
            "a cut token",
            "/v1/inbox/seen",
            "Bearer e30.e30.x",
            {},
            401,
            ("The token is not valid", "Get a new one"),
        ),
        (
            "JSON to sign in",
            SIGN_IN,
            "",
            {"json": {}},
            400,
            ("with Content-Type: application/x-www-form-urlencoded",),
        ),
        ("no grant", SIGN_IN, "", {"data": {"username": "x"}}, 400, ("The field grant_type is missing",)),
        (
            "a wrong grant",
            SIGN_IN,
            "",
            {"data": {"grant_type": "pass"}},
            400,
            ("grant_type", "password, refresh_token"),
        ),
        (
            "a wrong password",
            SIGN_IN,
            "",
            {"data": {"grant_type": "password", "username": "x", "password": "y"}},
            400,
            ("The user name or the password is wrong",),
        ),
    )
}


async def test_an_invalid_request_gets_an_error_that_says_what_to_do(
    sqlite_url: str, subtests: pytest.Subtests
) -> None:
    mistakes = BY_A_SERVICE | BY_A_USER | BY_A_STRANGER
    async with serving(settings_for(sqlite_url)) as server:
        await server.service.post(USERS, json={"sub": "bob"})
        callers: dict[str, Any] = {"service": server.service, "user": await server.user()}
        for name, (method, path, who, options, status, said) in mistakes.items():
            with subtests.test(name):
                caller = callers.get(who, server.stranger)
                headers = {"headers": {"Authorization": who}} if who and who not in callers else {}
                answer = await caller.request(method, path, **options, **headers)
                assert answer.status_code == status, answer.text
                body = answer.json()
                check(body.get("detail") or body["error_description"], *said)
        await socket_mistakes(server, subtests)


async def socket_mistakes(server: LocalServer, subtests: pytest.Subtests) -> None:
    ada = await server.user()
    commands = {
        "hello": "A frame is one JSON object",
        '{"type": "raed"}': "type: one of ack, read, unread",
        '{"type": "read"}': "ids or up_to: exactly one of them",
        '{"type": "ack", "seq": "1"}': "seq: a number, 0 or more",
    }
    async with open_socket(server.base, headers=ada.headers, since="latest") as socket:
        for command, said in commands.items():
            with subtests.test(command):
                await socket.connection.send(command)
                message = {"type": ""}
                while message["type"] != "error":
                    message = json.loads(await socket.connection.recv())
                check(message["detail"], said)


# --- the command line and the settings ----------------------------------------------------------------------

COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "sned ada Hello": (2, ("No such command 'sned'", "send", "--help")),
    "send ada": (2, ("Missing argument 'TITLE'", "gateway send --help")),
    "send ada Hello --titel x": (2, ("No such option", "--titel", "--help")),
    "send ada Hello": (2, ("gateway: GATEWAY_KEY or --key: an API key is needed", "gateway key add SERVICE")),
    "send ada Hello --key ngk_x": (1, ("http://127.0.0.1:1: Connection refused", "GATEWAY_URL")),
    "send ada Hello --key k --server localhost": (
        2,
        ("GATEWAY_URL or --server", "such as http://127.0.0.1:8000"),
    ),
    "tail": (2, ("gateway: a user is needed: gateway tail SUB", "GATEWAY_TOKEN")),
    "user add bob": (1, ("There is a user with this sub already: 'bob'. To", "gateway user password bob")),
    "key add shp": (1, ("no such service: 'shp'. Did you mean 'shop'? To see", "gateway service list")),
    "token ada --ttl 15m": (2, ("'--ttl': it must be a whole number of seconds", "gateway token --help")),
    "serve --port 99999": (2, ("gateway: --port: it must be at most 65,535",)),
    "user add *": (1, ("sub: no user can be called '*', because no post reaches it: choose another id",)),
    "token *": (1, ("sub: no user can be called '*', because no post reaches it: choose another id",)),
    "user password eve --password-stdin": (2, ("the password: it must have 12 to 256 characters",)),
    "user disable eve": (1, ("There is no such user: 'eve'", "gateway user list")),
    "token bob": (1, ("The user is disabled: enable the user first", "gateway user enable")),
    "key add nothing": (1, ("There is no such service: 'nothing'", "gateway service list")),
    "service add shop": (2, ("Missing option '--scope'", "gateway service add --help")),
    "service add shop --scope post": (2, ("post: it must be one of notify, tokens:mint, admin",)),
    "service add shop --scope Notify": (2, ("Notify: it must be one of", "admin: did you mean notify?")),
    "serve --port http": (2, ("'--port': it must be a whole number", "gateway serve --help")),
    "serve --demo --host 0.0.0.0": (2, ("--demo: needs a loopback address such as 127.0.0.1",)),
    "serve --workers 2": (2, ("gateway: --workers: more than one process needs Postgres",)),
}

SETTINGS: dict[str, tuple[str, ...]] = {
    "GATEWAY_PORT=http": ("GATEWAY_PORT: it must be a whole number",),
    "GATEWAY_ACCESS_TOKEN_TTL=15m": ("GATEWAY_ACCESS_TOKEN_TTL: it must be a whole number of seconds",),
    "GATEWAY_HEARTBEAT=30s": ("GATEWAY_HEARTBEAT: it must be a number of seconds",),
    "GATEWAY_DATABASE_URL=mysql://localhost/x": (
        "GATEWAY_DATABASE_URL: it must begin with sqlite:/// or postgresql",
    ),
    "GATEWAY_DATABASE_URL=postgresql://localhost": ("GATEWAY_DATABASE_URL: it must name a database",),
    "GATEWAY_LOG_LEVEL=verbose": ("GATEWAY_LOG_LEVEL: it must be debug, info, warning or error",),
    "GATEWAY_JWT_SECRET=short": ("GATEWAY_JWT_SECRET: it must have 32 bytes or more",),
    "GATEWAY_ALLOWED_ORIGINS=https://a.example/app": ("GATEWAY_ALLOWED_ORIGINS", "https://a"),
    "GATEWAY_REQUIRED_CATEGORIES=security,Billing": (
        "GATEWAY_REQUIRED_CATEGORIES: 'Billing' is no category: it must have 1 to 64 small letters",
    ),
    "GATEWAY_PUBLIC_URL=a.example": ("GATEWAY_PUBLIC_URL", "https://notify.example.com"),
    "GATEWAY_TRUSTED_ISSUERS=https://a.example": ("GATEWAY_TRUSTED_ISSUERS: it must be",),
    "GATEWAY_RETENTION=soon": ("GATEWAY_RETENTION: it must be a number of seconds, a duration such as 90d",),
    "GATEWAY_ACCESS_LOG=maybe": ("GATEWAY_ACCESS_LOG: it must be true or false",),
    "GATEWAY_BACKPLANE_URL=kafka://x": ("GATEWAY_BACKPLANE_URL", "redis://"),
    "GATEWAY_HOST=": ("GATEWAY_HOST: it must have at least 1 character",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database in which there is a disabled user."""
    home = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert cli.run(["user", "add", "bob", "--create"]) == 0
        assert cli.run(["user", "disable", "bob"]) == 0
        assert cli.run(["service", "add", "shop", "--scope", "notify"]) == 0
    return home


@pytest.mark.parametrize("command", COMMANDS)
def test_an_invalid_command_gets_a_one_line_error_that_says_what_to_do(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = COMMANDS[command]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"short\n")))
    if "--server" not in command:
        monkeypatch.setenv("GATEWAY_URL", "http://127.0.0.1:1")
    assert cli.run(command.split()) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("gateway: ")
    check(shown.err.removesuffix("\n"), *said)


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_invalid_setting_gets_an_error_that_names_it_and_its_rule(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    check(str(caught.value), *SETTINGS[setting])


def test_a_misspelled_setting_gets_a_suggestion(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GATEWAY_DATABSE_URL", "sqlite:///x.db")
    assert cli.run(["check"]) == 0
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "DATABSE" in one]
    check(line, "GATEWAY_DATABSE_URL is not a setting: did you mean GATEWAY_DATABASE_URL?")


# --- the SDK ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "getToken: a function that returns an access token",
        "getToken returned ${what}, not a token: ${todo}.",
        "an object without a token",
        "the response is not JSON, but perhaps an HTML page: check the address that it fetches",
        "the address that it fetches could not be reached",
        "it threw, or its promise was rejected",
        "getToken returned an API key: it must never reach a browser. Mint a token for the user.",
        "the token may not read an inbox: mint it for a user, with the scope inbox.",
        "getToken returned undefined, which means null: no user is signed in.",
        "refused the token that getToken returned, and getToken returned it again",
    ],
)
def test_the_sdk_has_a_console_message_for_each_mistake_of_a_page(said: str) -> None:
    scripts = [file for file in files(web).joinpath("sdk").iterdir() if file.name.endswith(".js")]
    assert any(said in file.read_text("utf-8") for file in scripts)


def test_the_catalog_has_at_least_60_mistakes() -> None:
    by_hand = len(BY_A_SERVICE | BY_A_USER | BY_A_STRANGER) + len(COMMANDS) + len(SETTINGS)
    assert by_hand >= 60
