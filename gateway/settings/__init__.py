"""The settings of a gateway: read once from `GATEWAY_*` variables or `.env`, then frozen."""

from enum import StrEnum
from functools import cached_property
from typing import Any

from limits import parse_many
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.settings.addresses import path_of, read_public_url
from gateway.settings.credentials import JwtSecret, KeyEncryptionKey, MetricsToken
from gateway.settings.database_url import read_database_url
from gateway.settings.durations import read_duration
from gateway.settings.lists import Issuers, Networks, Origins
from gateway.settings.origins import is_loopback
from gateway.settings.redis_url import check_redis_url
from gateway.settings.trusted_issuer import TrustedIssuer
from gateway.settings.wording import in_words, rule, unknown_member

LEAST_RETENTION = 60
"""The shortest retention, in seconds: no post may be over its time before it is committed."""


class UnknownRecipients(StrEnum):
    """What a post to a `sub` that the gateway has not met does."""

    CREATE = "create"
    REJECT = "reject"


class BackplaneKind(StrEnum):
    """What processes tell each other through that something is new."""

    MEMORY = "memory"
    POSTGRES = "postgres"
    REDIS = "redis"


class LogFormat(StrEnum):
    """How the log is written."""

    CONSOLE = "console"
    JSON = "json"


class SettingsError(Exception):
    """A setting is wrong. Its text is one line that names the setting and the rule."""


class Settings(BaseSettings):
    """Everything an operator can set. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", env_file=".env", env_file_encoding="utf-8-sig", extra="ignore", frozen=True
    )

    database_url: str = Field(
        "sqlite:///gateway.db", description="Where everything is stored: sqlite:///… or postgresql://…"
    )
    database_pool_size: int = Field(
        10, ge=2, le=200, description="Connections to Postgres; SQLite has five of its own."
    )
    workers: int = Field(1, ge=1, le=256, description="Processes that serve; more than one needs Postgres.")
    backplane_url: SecretStr | None = Field(
        None, description="redis://… where processes tell each other what is new; or postgres, or memory."
    )
    reconcile_interval: float = Field(
        15, ge=0.1, le=3600, description="Time between two looks for what no hint has told."
    )
    host: str = Field("127.0.0.1", min_length=1, description="The address to listen on; :: is every one.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    log_level: str = Field(
        "info",
        pattern=in_words("be debug, info, warning or error", "^(debug|info|warning|error)$"),
        description="The least level logged.",
    )
    log_format: LogFormat = Field(
        LogFormat.CONSOLE, description="How the log is written: for people (console), or as lines of JSON."
    )
    access_log: bool = Field(False, description="Log a line for each HTTP request (without its query).")

    issuer: str = Field("notification-gateway", min_length=1, description="The `iss` of the tokens issued.")
    audience: str = Field("notification-gateway", min_length=1, description="The `aud` of the tokens issued.")
    jwt_secret: JwtSecret | None = Field(
        None, description="Sign tokens with HS256 and this secret (32 bytes or more) instead of EdDSA."
    )
    access_token_ttl: int = Field(900, ge=10, le=86_400, description="How long an access token lives.")
    refresh_token_ttl: int = Field(2_592_000, ge=60, description="How long a sign-in lasts.")

    max_sessions_per_user: int = Field(
        100, ge=1, le=10_000, description="Sessions of one user; for one more the oldest ends."
    )
    max_sessions_per_service: int = Field(
        10_000, ge=1, le=100_000, description="Sessions of one service, as many as it has access tokens."
    )

    retention: str = Field(
        "90d", description="How old an item gets before it is deleted: such as 90d, 12h, or none."
    )
    unknown_recipients: UnknownRecipients = Field(
        UnknownRecipients.CREATE, description="Whether a post creates the users it names, or is refused."
    )
    allowed_origins: Origins = Field(
        (), description="Origins, separated by commas, whose pages may call besides the gateway's own."
    )
    api_docs: bool = Field(
        True, description="Serve the API reference at /docs and the OpenAPI document at /openapi.json."
    )
    ws_query_token: bool | None = Field(
        None, description="Take ?token= on the socket. Default: only when bound to a loopback address."
    )

    heartbeat: float = Field(
        30, ge=0.1, le=3600, description="Silence after which a socket gets a heartbeat."
    )
    ping_interval: float = Field(20, ge=0.1, le=3600, description="Time between protocol pings.")
    ping_timeout: float = Field(20, ge=0.1, le=3600, description="How long a ping may stay unanswered.")
    send_timeout: float = Field(
        10, ge=0.1, le=3600, description="How long a socket may refuse to be written to."
    )
    max_sockets: int = Field(50_000, ge=1, description="Sockets in one process.")
    max_sockets_per_user: int = Field(20, ge=1, description="Sockets of one user in one process.")
    commands_per_second: float = Field(
        50,
        gt=0,
        le=1e6,
        description="Commands of a socket, and requests of a user, after a burst of 4 s' worth.",
    )
    tail_bytes: int = Field(
        32 * 1024 * 1024, ge=0, description="Memory for the newest frames of connected users."
    )
    grace_period: int = Field(15, ge=1, le=600, description="How long a stop waits for what is under way.")

    audit_log: str | None = Field(
        None, min_length=1, description="The file of the audit log; the console without it."
    )

    trusted_issuers: Issuers = Field(
        (), description="A JSON array of other issuers whose tokens name users here."
    )

    login_limit: str = Field(
        "5/minute; 30/hour",
        description="Failed sign-ins to one account from one address, or empty.",
    )
    login_limit_per_address: str = Field(
        "100/minute; 1000/hour", description="Failed sign-ins from one address, or empty."
    )
    posts_per_second: float = Field(
        20_000, gt=0, le=1e9, description="Notifications a service may post, after a burst of 4 s' worth."
    )
    service_calls_per_second: float = Field(
        500, gt=0, le=1e6, description="Other requests of a service, after a burst of 4 s' worth."
    )
    items_per_second: float = Field(
        20_000, gt=0, le=1e9, description="Recipients a service may post to, after a burst of 4 s' worth."
    )
    handshakes_per_second: float = Field(
        100, gt=0, le=1e6, description="Sockets an address may open, after a burst of 10 s' worth."
    )
    anonymous_per_second: float = Field(
        200,
        gt=0,
        le=1e6,
        description="Requests without a credential from an address, after a burst of 10 s' worth.",
    )
    refusals_per_second: float = Field(
        50,
        gt=0,
        le=1e6,
        description="Requests with a bad token or key from an address, after a burst of 10 s' worth.",
    )
    connections_per_address: int = Field(
        5000,
        ge=1,
        description="Connections of an address; proxies and loopback have no limit.",
    )
    tokens_per_second: float = Field(
        1000, gt=0, le=1e9, description="Tokens a service may get or mint, after a burst of 4 s' worth."
    )
    tokens_per_minute: float = Field(
        60, gt=0, le=1e9, description="Sign-ins, refreshes, minted tokens and tickets of a user, each kind."
    )
    auth_per_second: float = Field(
        100,
        gt=0,
        le=1e6,
        description="Requests to the OAuth endpoints from an address; a burst of 10 s' worth.",
    )
    rate_limit_url: SecretStr | None = Field(
        None, description="redis://… where processes share the counters of failed sign-ins; else in memory."
    )
    header_timeout: float = Field(
        10, ge=0.1, le=3600, description="How long the head of a request may take to arrive."
    )
    keep_alive: float = Field(
        5, ge=1, le=3600, description="How long a connection may wait for its next request."
    )
    body_timeout: float = Field(
        30, ge=0.1, le=3600, description="How long the body of a request may take to arrive."
    )
    forwarded_allow_ips: Networks = Field(
        (), description="Proxies, as addresses and networks, whose X-Forwarded-For and -Proto are believed."
    )

    metrics_token: MetricsToken | None = Field(
        None, description="A Bearer token for /metrics (16 characters or more), from other machines too."
    )
    otel: bool = Field(
        False, description="Make spans for OpenTelemetry; OTEL_* variables say where they go. Extra otel."
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("retention")
    @classmethod
    def _check_retention(cls, value: str) -> str:
        if value != "none" and read_duration(value) < LEAST_RETENTION:
            raise ValueError("it must be 60 seconds or more")
        return value

    @field_validator("login_limit", "login_limit_per_address")
    @classmethod
    def _check_limits(cls, value: str) -> str:
        try:
            _ = parse_many(value) if value.strip() else ()
        except ValueError:
            raise ValueError("it must be limits such as '5/minute; 30/hour'") from None
        return value.strip()

    @field_validator("backplane_url")
    @classmethod
    def _check_backplane_url(cls, value: SecretStr | None) -> SecretStr | None:
        url = "memory" if value is None else value.get_secret_value()
        if url not in {"memory", "postgres"}:
            try:
                check_redis_url(url)
            except ValueError as error:
                raise ValueError(str(error) if ":" in url else f"{error}, or be postgres or memory") from None
        return value

    @model_validator(mode="after")
    def _check_workers(self) -> "Settings":
        if self.database_url.startswith("sqlite:"):
            where = "set GATEWAY_DATABASE_URL=postgresql://…"
            if self.workers > 1:
                raise ValueError(f"GATEWAY_WORKERS: more than one process needs Postgres: {where}")
            if self.backplane is BackplaneKind.POSTGRES:
                raise ValueError(f"GATEWAY_BACKPLANE_URL: it needs a Postgres database: {where}")
        return self

    @field_validator("rate_limit_url")
    @classmethod
    def _check_rate_limit_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_redis_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_issuers(self) -> "Settings":
        names = [self.issuer, *(one.issuer for one in self.trusted_issuers)]
        if len(set(names)) != len(names):
            raise ValueError("GATEWAY_TRUSTED_ISSUERS: each issuer is named once, and none is GATEWAY_ISSUER")
        return self

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        return read_database_url(value)

    key_encryption_key: KeyEncryptionKey | None = Field(
        None, description="Encrypt the private signing keys in the database with it (32 bytes or more)."
    )
    public_url: str | None = Field(
        None,
        description="Where clients reach the gateway: https://notify.example.com, or a path of a site.",
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        return None if value is None else read_public_url(value)

    @cached_property
    def backplane(self) -> BackplaneKind:
        """What the processes of the gateway tell each other through."""
        url = None if self.backplane_url is None else self.backplane_url.get_secret_value()
        if url is None:
            return BackplaneKind.MEMORY if self.workers == 1 else BackplaneKind.POSTGRES
        return BackplaneKind(url) if url in set(BackplaneKind) else BackplaneKind.REDIS

    @cached_property
    def mount(self) -> str:
        """The path of `public_url`, such as `/notify`; empty where the gateway has a host of its own."""
        return path_of(self.public_url) if self.public_url else ""

    @cached_property
    def session_limit(self) -> int:
        """How many sessions a user has at once; unless that is set, never fewer than sockets."""
        if "max_sessions_per_user" in self.model_fields_set:
            return self.max_sessions_per_user
        return max(self.max_sessions_per_user, self.max_sockets_per_user)

    @cached_property
    def retention_seconds(self) -> int | None:
        """How old an item gets, or None where items are kept."""
        return None if self.retention == "none" else read_duration(self.retention)

    @cached_property
    def takes_query_token(self) -> bool:
        """Whether `?token=` is a carrier on the socket."""
        return is_loopback(self.host) if self.ws_query_token is None else self.ws_query_token


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` that are not None win over the environment.

    Raises `SettingsError` with one line for the first setting that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        # A member that is not known may be a misspelt one that is missed, and its name says more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        extra = first["type"] == "extra_forbidden"
        message = unknown_member(str(first["loc"][-1]), TrustedIssuer.model_fields) if extra else rule(first)
        if not first["loc"]:  # a rule for several settings, which names them itself
            raise SettingsError(message) from None
        name, *inner = first["loc"]
        where = f"{'.'.join(map(str, inner))}: " if inner else ""
        raise SettingsError(f"GATEWAY_{str(name).upper()}: {where}{message}") from None
