"""The command line as people run it: what it prints, and one line, never a traceback, for what is wrong."""

import json
import re
import socket
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from gateway.database.sqlite_file import served
from tests.support.commands import Here, RunCommand
from tests.support.postgres import free_port


def test_the_first_service_user_and_token_are_created_without_a_running_gateway(
    run_command: RunCommand,
) -> None:
    service = json.loads(run_command("service", "add", "shop", "--scope", "notify", "--create").stdout)
    assert set(service) >= {"client_id", "client_secret"}
    key = json.loads(run_command("key", "add", service["client_id"]).stdout)
    assert key["key"].startswith("ngk_")
    added = run_command("user", "add", "ada", "--password-stdin", stdin="a long and odd pass phrase\n")
    assert added.returncode == 0, added.stderr
    assert "ada" in run_command("user", "list").stdout
    assert run_command("token", "ada").stdout.count(".") == 2
    assert len(run_command("signing-key", "list").stdout.splitlines()) == 1
    run_command("signing-key", "rotate")
    assert len(run_command("signing-key", "list").stdout.splitlines()) == 2
    for verb in ("disable", "enable", "logout", "delete"):
        assert run_command("user", verb, "ada").returncode == 0
    assert run_command("key", "list", service["client_id"]).stdout != ""
    assert run_command("service", "delete", service["client_id"]).returncode == 0
    assert service["client_id"] not in run_command("service", "list").stdout


def test_a_service_is_deleted_by_its_client_id_or_a_unique_name(here: Here, database_url: str) -> None:
    ids = []
    for name in ("shop", "shop", "till", "till"):
        _, made = here("service", "add", name, "--scope", "notify", "--create", database_url=database_url)
        ids += re.findall("svc_[0-9a-f]+", made)[:1]
    code, said = here("service", "delete", "shop", database_url=database_url)
    assert code == 1
    assert f"There is more than one service of this name: name one of {ids[0]}, {ids[1]}" in said
    code, said = here("service", "delete", ids[0], database_url=database_url)
    assert (code, f"Deleted {ids[0]}.\n" in said) == (0, True)
    code, said = here("service", "delete", "shop", database_url=database_url)
    assert (code, f"Deleted shop ({ids[1]}).\n" in said) == (0, True)
    listed = here("service", "list", database_url=database_url)[1]
    assert [one in listed for one in ids] == [False, False, True, True]


@pytest.mark.parametrize(
    ("command", "offers_create"),
    [
        ("user list", False),
        ("user delete ada", False),
        ("service list", False),
        ("key add shop", False),
        ("backup-epoch", False),
        ("tail ada", False),
        ("user add ada", True),
        ("service add shop --scope notify", True),
        ("token ada", True),
    ],
)
def test_without_a_database_a_command_says_how_to_make_one(
    here: Here, tmp_path: Path, command: str, offers_create: bool
) -> None:
    code, said = here(*command.split())
    hint = "or make one with gateway migrate" + " or --create" * offers_create
    where = f"there is no database at {tmp_path}/gateway.db: name the one that the gateway serves from"
    assert (code, said) == (2, f"gateway: GATEWAY_DATABASE_URL: {where}, {hint}\n")
    assert ("--create" in here(*command.split()[:2], "--help")[1]) is offers_create


def test_backup_epoch_warns_if_a_gateway_serves_from_the_database(here: Here) -> None:
    warning = "gateway: warning: a gateway serves from this database: stop it, and run this command again\n"
    assert here("migrate")[0] == 0
    assert warning not in here("backup-epoch")[1]
    with served(make_url("sqlite:///gateway.db")):
        code, said = here("backup-epoch")
    assert (code, warning in said) == (0, True)
    assert "The positions of all clients are reset: each client reloads its inbox" in said
    code, said = here("backup-epoch")
    assert (code, warning not in said) == (0, True)


@pytest.mark.parametrize("command", ["", "serve", "user", "user add", "key list"])
def test_the_help_shows_flags_without_a_type(here: Here, command: str) -> None:
    code, said = here(*command.split(), "--help")
    assert (code, "bool" in said, "--help" in said) == (0, False, True)


def test_the_signing_key_is_not_rotated_if_a_secret_signs(run_command: RunCommand) -> None:
    assert run_command("migrate").returncode == 0
    done = run_command("signing-key", "rotate", jwt_secret="s" * 40)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("gateway: GATEWAY_JWT_SECRET: ")


def test_settings_are_also_read_from_the_env_file(run_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_DATABASE_URL=sqlite:///other.db\n")
    assert run_command("migrate").returncode == 0
    assert (tmp_path / "other.db").exists()
    assert "other.db: reached" in run_command("check").stdout


def test_check_reports_whether_the_backplane_is_reachable(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "backplane: memory: reached" in run_command("check").stdout
    monkeypatch.setattr("gateway.backplane.REACH_SECONDS", 1)
    done = run_command("check", backplane_url=f"redis://:secret-of-mine@127.0.0.1:{free_port()}")
    assert (done.returncode, done.stderr) == (1, "")
    assert "backplane: redis: not reached" in done.stdout
    assert "secret-of-mine" not in done.stdout


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/x",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:////nowhere/at/all/gateway.db",
        "sqlite:///junk.db",
        "postgresql://user:secret-of-mine@127.0.0.1:port/x",
        "postgresql://user:secret-of-mine@127.0.0.1:1/x",
        "postgresql://127.0.0.1/",
    ],
)
def test_an_unusable_database_gets_a_one_line_error_that_names_the_setting(
    run_command: RunCommand, tmp_path: Path, url: str
) -> None:
    (tmp_path / "junk.db").write_bytes(b"this is no database" * 100)
    done = run_command("check", database_url=url)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("gateway: GATEWAY_DATABASE_URL: ")
    assert "secret-of-mine" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("audit_log", "/nonexistent/x", "GATEWAY_AUDIT_LOG: No such file or directory"),
        ("audit_log", ".", "GATEWAY_AUDIT_LOG: Is a directory"),
        ("host", "not..a..host", "GATEWAY_HOST, GATEWAY_PORT: cannot listen on not..a..host:8000 ("),
        ("host", "ä..b", "GATEWAY_HOST, GATEWAY_PORT: cannot listen on ä..b:8000 ("),
        ("trusted_issuers", '{"issuer": "x"}', "GATEWAY_TRUSTED_ISSUERS: it must be a JSON array of objects"),
        ("trusted_issuers", '["x"]', "GATEWAY_TRUSTED_ISSUERS: it must be a JSON array of objects"),
        (
            "database_url",
            "postgresql://h/x?foo=1",
            "GATEWAY_DATABASE_URL: the parameter 'foo' is not known",
        ),
        ("database_url", "sqlite:///x.db?foo=1", "GATEWAY_DATABASE_URL: the parameter 'foo' is not known"),
    ],
)
def test_check_reports_the_errors_of_serve_once(here: Here, setting: str, value: str, said: str) -> None:
    code, text = here("check", **{setting: value})
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith(f"gateway: {said}")
    assert text.count(value) <= 1
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            1024,
            "open files: 1024: room for 914 connections (low: set ulimit -n, or LimitNOFILE= of",
        ),
        (4096, "open files: 4096: room for 3986 connections\n"),
    ],
)
def test_check_prints_the_connection_capacity_and_warns_if_it_is_low(
    here: Here, limit: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, limit))
    code, text = here("check")
    assert (code, text.count("open files: ")) == (0, 1)
    assert said in text


def test_check_writes_no_audit_log_and_binds_no_port(run_command: RunCommand, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command("check", audit_log="audit.log", port=port)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "audit.log").exists()
    there = '{"time":"2026-01-01T00:00:00.000Z","event":"login"}\n'
    (tmp_path / "audit.log").write_text(there)
    assert run_command("check", audit_log="audit.log").returncode == 0
    assert (tmp_path / "audit.log").read_text() == there


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["user", "list"], ["token", "ada"]])
def test_every_command_reports_an_unusable_database_in_one_line(
    run_command: RunCommand, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "junk.db").write_bytes(b"this is no database" * 100)
    done = run_command(*command, database_url="sqlite:///junk.db")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("gateway: GATEWAY_DATABASE_URL: ")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("port", "many"),
        ("port", "70000"),
        ("heartbeat", "0"),
        ("jwt_secret", "short"),
        ("allowed_origins", "app.example.com"),
        ("unknown_recipients", "maybe"),
        ("audit_log", "/nonexistent/x"),
    ],
)
def test_an_invalid_setting_stops_the_start_with_one_line_that_names_it(
    run_command: RunCommand, setting: str, value: str
) -> None:
    done = run_command("serve", **{"port": str(free_port()), setting: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"gateway: GATEWAY_{setting.upper()}: ")


def test_a_port_in_use_gets_a_one_line_error_and_creates_no_demo_database(
    run_command: RunCommand, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command("serve", "--demo", "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / "gateway.db").exists()


@pytest.mark.parametrize(
    ("options", "settings"), [(["--workers", "2"], {}), ([], {"workers": "2"})], ids=["option", "setting"]
)
def test_several_workers_on_sqlite_get_a_one_line_error_that_says_what_to_set(
    run_command: RunCommand, tmp_path: Path, options: list[str], settings: dict[str, str]
) -> None:
    done = run_command("serve", *options, **settings)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"gateway: {'--workers' if options else 'GATEWAY_WORKERS'}: ")
    assert "GATEWAY_DATABASE_URL=postgresql://" in done.stderr
    assert not (tmp_path / "gateway.db").exists()


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        *((f"user {verb} nobody", "user: 'nobody'") for verb in ("disable", "enable", "logout", "delete")),
        ("service delete nope", "service: 'nope'"),
        ("key add nope", "service: 'nope'"),
        ("key list nope", "service: 'nope'"),
        ("key delete nope x", "service: 'nope'"),
        ("key delete SHOP nope", "key: 'nope'"),
    ],
)
def test_a_missing_user_service_or_key_is_named_in_the_error(
    here: Here, database_url: str, command: str, missing: str
) -> None:
    if "SHOP" in command:
        _, made = here("service", "add", "shop", "--scope", "notify", database_url=database_url)
        command = command.replace("SHOP", re.findall("svc_[0-9a-f]+", made)[0])
    code, said = here(*command.split(), database_url=database_url)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith(
        f"gateway: There is no such {missing}. To see them: gateway {missing.split(':', maxsplit=1)[0]} list"
    )
    assert f" (database: {database_url.partition(':')[0]}:" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--demo", "--host", "0.0.0.0"],
        ["serve", "--workers", "0"],
        ["user", "disable", "nobody"],
        ["user", "add", ""],
        ["key", "add", "nothing"],
        ["service", "add", "shop", "--scope", "everything"],
        ["send", "ada", "Hello"],
        ["send", "ada", "Hello", "--key", "x", "--server", "http://127.0.0.1:1"],
        ["token"],
        ["nonsense"],
    ],
)
def test_a_failed_command_prints_an_error_without_a_traceback(
    run_command: RunCommand, arguments: list[str]
) -> None:
    done = run_command(*arguments)
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.strip()
