"""The files to deploy with name what exists, and their values fit the gateway and each other."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.routing import Route, WebSocketRoute

from gateway.app import create_app
from gateway.settings import Settings
from tests.support.databases import settings_for

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "operations"
FILES = ["Caddyfile", "Dockerfile", "compose.yml", "gateway.service", "kubernetes.yml", "nginx.conf"]
NUMBER = r"(\d+)"


def text_of(name: str) -> str:
    return (FOLDER / name).read_text()


def number_in(name: str, pattern: str) -> int:
    """Return the number that follows `pattern` in a file."""
    found = re.search(pattern + NUMBER, text_of(name))
    assert found is not None, f"{name} says nothing of {pattern}"
    return int(found[1])


def default_of(name: str) -> Any:
    return Settings.model_fields[name].default


def manifest(kind: str) -> dict[str, Any]:
    """Return the one manifest of a kind."""
    (found,) = [one for one in yaml.safe_load_all(text_of("kubernetes.yml")) if one["kind"] == kind]
    return dict(found)


def pod() -> dict[str, Any]:
    return dict(manifest("Deployment")["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    return dict(pod()["containers"][0])


def plain_environment() -> dict[str, str]:
    """Return the variables of the container whose values stand in the manifest."""
    return {one["name"]: one["value"] for one in container()["env"] if "value" in one}


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(text_of("compose.yml")))


def test_compose_gives_the_gateway_every_setting_of_its_env_file() -> None:
    assert compose()["services"]["gateway"]["env_file"] == [{"path": ".env", "required": False}]
    fixed = {
        name for name, value in compose()["services"]["gateway"]["environment"].items() if "${" not in value
    }
    # What stands in the compose file goes before the file: only what fits the rest of it may.
    assert fixed == {
        f"GATEWAY_{name}" for name in ("HOST", "PORT", "BACKPLANE_URL", "RATE_LIMIT_URL", "GRACE_PERIOD")
    }
    page = (ROOT / "docs" / "operations.md").read_text()
    (made,) = re.findall(r"cd docs/operations\n.*?<<SETTINGS\n(.*?)\nSETTINGS", page, re.DOTALL)
    names = {line.partition("=")[0] for line in made.splitlines()}
    assert names == {"POSTGRES_PASSWORD", "GATEWAY_KEY_ENCRYPTION_KEY", "GATEWAY_METRICS_TOKEN"}


def test_the_systemd_service_gets_a_python_that_its_user_can_read() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    (block,) = re.findall(r"```sh\n(UV_PROJECT_ENVIRONMENT=/opt/gateway .*?)```", page, re.DOTALL)
    assert "--python /usr/bin/python3 " in block
    assert re.search(r"setpriv --reuid=(?!0\b)\d+ .* /opt/gateway/bin/gateway --version", block)


def compose_environment() -> dict[str, str]:
    """Return the variables of the gateway, with something for what the operator's own `.env` says."""
    environment: dict[str, str] = compose()["services"]["gateway"]["environment"]
    secret = re.compile(r"\$\{\w+:\?\}")
    filled = {name: secret.sub("0" * 32, value) for name, value in environment.items()}
    return {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in filled.items()}


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_setting_named_in_a_deployment_file_exists(name: str) -> None:
    known = {f"GATEWAY_{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"\bGATEWAY_[A-Z_]+[A-Z]", text_of(name))) <= known


def paths_named() -> Iterator[tuple[str, str]]:
    """Yield what each file asks of the gateway, or keeps from it."""
    patterns = {
        "Dockerfile": r"request\('GET', '([^']+)'\)",
        "kubernetes.yml": r"httpGet: \{path: ([^,]+),",
        "nginx.conf": r"location (/\w[\w/]*) ",
        "Caddyfile": r"respond (/\w[\w/]*)\*",
    }
    for name, pattern in patterns.items():
        for path in re.findall(pattern, text_of(name)):
            yield name, path


def test_every_path_named_in_a_deployment_file_exists() -> None:
    routes = create_app(settings_for("sqlite:///unused.db")).routes
    known = {route.path for route in routes if isinstance(route, Route | WebSocketRoute)}
    named = set(paths_named())
    assert {name for name, _ in named} == {"Dockerfile", "kubernetes.yml", "nginx.conf", "Caddyfile"}
    assert {path for _, path in named} <= known


def test_the_extras_of_the_image_exist_and_its_files_exist_and_are_not_ignored() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\w+)", text_of("Dockerfile"))) <= set(extras)
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text_of("Dockerfile"), re.MULTILINE)
        for name in line.split()
    }
    assert copied == set(re.findall(r"^!(.*)$", text_of("Dockerfile.dockerignore"), re.MULTILINE))
    assert [name for name in copied if not (ROOT / name).exists()] == []


# --- values -------------------------------------------------------------------------------------------------


def test_the_settings_of_the_compose_file_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in compose_environment().items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    assert settings.database_url.startswith("postgresql://gateway:")


def test_the_settings_of_the_kubernetes_manifest_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in plain_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=None).grace_period == int(plain_environment()["GATEWAY_GRACE_PERIOD"])


def test_the_secrets_of_the_manifest_match_those_created_in_its_header() -> None:
    secrets = [one["valueFrom"]["secretKeyRef"] for one in container()["env"] if "valueFrom" in one]
    assert {one["name"] for one in secrets} == {"notification-gateway"}
    told = re.findall(r"--from-literal=([\w-]+)=", text_of("kubernetes.yml"))
    assert {one["key"] for one in secrets} == set(told)


def test_service_managers_wait_longer_than_the_gateway_drains() -> None:
    grace = default_of("grace_period")
    assert number_in("gateway.service", "TimeoutStopSec=") > grace
    service = compose()["services"]["gateway"]
    assert int(service["stop_grace_period"].rstrip("s")) > int(service["environment"]["GATEWAY_GRACE_PERIOD"])
    waited = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    drained = int(plain_environment()["GATEWAY_GRACE_PERIOD"])
    assert pod()["terminationGracePeriodSeconds"] > waited + drained


def test_the_idle_timeout_of_the_proxies_exceeds_the_ping_interval_and_timeout() -> None:
    both = default_of("ping_interval") + default_of("ping_timeout")
    assert number_in("nginx.conf", r"proxy_read_timeout +") > both
    assert number_in("nginx.conf", r"proxy_send_timeout +") > both


def test_the_proxies_forward_only_websocket_upgrades() -> None:
    nginx = re.sub(r"\s+", " ", text_of("nginx.conf"))
    assert 'map $http_upgrade $gateway_upgrade { default ""; ~*^websocket$ websocket; }' in nginx
    assert 'map $gateway_upgrade $gateway_connection { default upgrade; "" ""; }' in nginx
    assert (
        "proxy_set_header Upgrade $gateway_upgrade; proxy_set_header Connection $gateway_connection;" in nginx
    )
    assert nginx.count("$http_upgrade") == 1
    caddy = [line.strip() for line in text_of("Caddyfile").splitlines()]
    rule = caddy.index("@other_upgrade not header_regexp Upgrade (?i)^websocket$")
    assert caddy[rule + 1] == "request_header @other_upgrade -Upgrade"


def test_the_proxies_log_no_query_and_no_header() -> None:
    (logged,) = re.findall(r"log_format gateway (.*?);", text_of("nginx.conf"), re.DOTALL)
    variables = set(re.findall(r"\$(\w+)", logged))
    assert "uri" in variables
    assert not {
        one for one in variables if re.match(r"request$|request_uri|args|query|http_|sent_http_", one)
    }
    assert re.search(r"error_log +\S+ crit;", text_of("nginx.conf"))
    assert {r'request>uri regexp \?.* ""', "request>headers delete"} <= {
        line.strip() for line in text_of("Caddyfile").splitlines()
    }


# --- rights -------------------------------------------------------------------------------------------------


def test_the_image_and_the_pods_run_as_the_same_non_root_user() -> None:
    user = number_in("Dockerfile", "USER ")
    assert user == number_in("Dockerfile", "--uid ") == pod()["securityContext"]["runAsUser"] != 0
    assert pod()["securityContext"]["runAsNonRoot"]
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_labels_and_ports_of_the_manifests_fit_together() -> None:
    deployment, service = manifest("Deployment"), manifest("Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"http": number_in("Dockerfile", "GATEWAY_PORT=")}
    probes = [
        container()[name]["httpGet"]["port"] for name in ("livenessProbe", "readinessProbe", "startupProbe")
    ]
    assert {*probes, service["spec"]["ports"][0]["targetPort"]} == {"http"}


def test_the_compose_file_publishes_only_to_the_local_proxy_and_trusts_it() -> None:
    described = compose()
    assert described["services"]["gateway"]["ports"] == ["127.0.0.1:8000:8000"]
    assert [name for name, one in described["services"].items() if "ports" in one] == ["gateway"]
    bridge = described["networks"]["default"]["ipam"]["config"][0]["gateway"]
    assert compose_environment()["GATEWAY_FORWARDED_ALLOW_IPS"] == bridge


def test_the_service_has_no_more_rights_than_it_needs() -> None:
    lines = set(text_of("gateway.service").splitlines())
    assert lines >= {
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "KillMode=mixed",
        "Restart=always",
        "ExecReload=/bin/kill -HUP $MAINPID",
    }
