"""The settings of a gateway: read once from `GATEWAY_*` variables or `.env`, then frozen."""

from functools import cached_property
from typing import Any

from limits import parse_many
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.settings.addresses import path_of, read_public_url
from gateway.settings.choices import BackplaneKind, LogFormat, UnknownRecipients
from gateway.settings.credentials import JwtSecret, KeyEncryptionKey, MetricsToken
from gateway.settings.database_url import read_database_url
from gateway.settings.durations import read_duration
from gateway.settings.lists import Categories, Issuers, Networks, Origins
from gateway.settings.origins import is_loopback
from gateway.settings.redis_url import check_redis_url
from gateway.settings.trusted_issuer import TrustedIssuer
from gateway.settings.wording import first_rule, in_words

MIN_RETENTION_SECONDS = 60
"""Minimum retention: a post must not expire before it is committed."""


class SettingsError(Exception):
    """A setting is invalid. Its text is one line that names the setting and the rule."""


class Settings(BaseSettings):
    """The settings of an operator. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", env_file=".env", env_file_encoding="utf-8-sig", extra="ignore", frozen=True
    )

    database_url: str = Field(
        "sqlite:///gateway.db", description="The database: sqlite:///… or postgresql://…"
    )
    database_pool_size: int = Field(
        10, ge=2, le=200, description="Connections to Postgres; SQLite always has five."
    )
    workers: int = Field(
        1, ge=1, le=256, description="Number of worker processes; more than one needs Postgres."
    )
    backplane_url: SecretStr | None = Field(
        None, description="How processes notify each other of changes: redis://…, postgres or memory."
    )
    reconcile_interval: float = Field(
        15, ge=0.1, le=3600, description="How often to check the database for missed hints."
    )
    host: str = Field(
        "127.0.0.1", min_length=1, description="The address to listen on; :: means all of them."
    )
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    log_level: str = Field(
        "info",
        pattern=in_words("be debug, info, warning or error", "^(debug|info|warning|error)$"),
        description="The minimum level that is logged.",
    )
    log_format: LogFormat = Field(
        LogFormat.CONSOLE,
        description="The format of the log: console for people, json for one JSON object per line.",
    )
    access_log: bool = Field(False, description="Log a line for each HTTP request, without its query.")

    issuer: str = Field("notification-gateway", min_length=1, description="The `iss` of issued tokens.")
    audience: str = Field("notification-gateway", min_length=1, description="The `aud` of issued tokens.")
    jwt_secret: JwtSecret | None = Field(
        None, description="Sign tokens with HS256 and this secret (32 bytes or more) instead of EdDSA."
    )
    access_token_ttl: int = Field(900, ge=10, le=86_400, description="Lifetime of an access token.")
    refresh_token_ttl: int = Field(
        2_592_000, ge=60, description="Lifetime of a session that began with a password."
    )

    max_sessions_per_user: int = Field(
        100, ge=1, le=10_000, description="Maximum sessions of one user; one more ends the oldest."
    )
    max_sessions_per_service: int = Field(
        10_000, ge=1, le=100_000, description="Maximum sessions of one service: each of its tokens is one."
    )

    retention: str = Field(
        "90d", description="Age at which an item is deleted: a duration such as 90d or 12h, or none."
    )
    unknown_recipients: UnknownRecipients = Field(
        UnknownRecipients.CREATE, description="Whether a post to an unknown user creates it, or is refused."
    )
    required_categories: Categories = Field(
        (), description="Categories, separated by commas, that no user can mute."
    )
    allowed_origins: Origins = Field(
        (),
        description="Origins, separated by commas, whose pages may call, in addition to the gateway's own.",
    )
    api_docs: bool = Field(
        True, description="Serve the API reference at /docs and the OpenAPI document at /openapi.json."
    )
    ws_query_token: bool | None = Field(
        None, description="Accept ?token= on the socket. Default: only when bound to a loopback address."
    )

    heartbeat: float = Field(
        30, ge=0.1, le=3600, description="How long a socket is idle before it gets a heartbeat."
    )
    ping_interval: float = Field(20, ge=0.1, le=3600, description="Time between WebSocket pings.")
    ping_timeout: float = Field(20, ge=0.1, le=3600, description="How long to wait for the pong.")
    send_timeout: float = Field(
        10, ge=0.1, le=3600, description="How long a send may wait for a slow reader."
    )
    max_sockets: int = Field(50_000, ge=1, description="Maximum sockets in one process.")
    max_sockets_per_user: int = Field(20, ge=1, description="Maximum sockets of one user in one process.")
    commands_per_second: float = Field(
        50,
        gt=0,
        le=1e6,
        description="Commands of a socket, and requests of a user, after a burst of 4 s' worth.",
    )
    tail_bytes: int = Field(
        32 * 1024 * 1024, ge=0, description="Memory for the recent entries of connected users."
    )
    grace_period: int = Field(15, ge=1, le=600, description="How long a shutdown may take.")

    audit_log: str | None = Field(
        None, min_length=1, description="The file of the audit log. Without it: the console."
    )

    trusted_issuers: Issuers = Field(
        (), description="A JSON array of foreign issuers whose tokens are accepted."
    )

    login_limit: str = Field(
        "5/minute; 30/hour",
        description="Maximum failed sign-ins to one account from one address; empty means no limit.",
    )
    login_limit_per_address: str = Field(
        "100/minute; 1000/hour",
        description="Maximum failed sign-ins from one address; empty means no limit.",
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
        description="Maximum connections of an address; proxies and loopback have no limit.",
    )
    tokens_per_second: float = Field(
        1000, gt=0, le=1e9, description="Tokens a service may get or mint, after a burst of 4 s' worth."
    )
    tokens_per_minute: float = Field(
        60,
        gt=0,
        le=1e9,
        description="Sign-ins, refreshes, minted tokens and tickets of a user, each counted separately.",
    )
    auth_per_second: float = Field(
        100,
        gt=0,
        le=1e6,
        description="Requests to the OAuth endpoints from an address, after a burst of 10 s' worth.",
    )
    rate_limit_url: SecretStr | None = Field(
        None,
        description="redis://… where processes share the counters of failed sign-ins. Default: in memory.",
    )
    header_timeout: float = Field(
        10, ge=0.1, le=3600, description="How long the headers of a request may take to arrive."
    )
    keep_alive: float = Field(
        75, ge=1, le=3600, description="How long a connection may wait for its next request."
    )
    body_timeout: float = Field(
        30, ge=0.1, le=3600, description="How long the body of a request may take to arrive."
    )
    forwarded_allow_ips: Networks = Field(
        (), description="Addresses and networks of proxies whose X-Forwarded-For and -Proto are trusted."
    )

    metrics_token: MetricsToken | None = Field(
        None, description="A Bearer token for /metrics (16 characters or more), also from other machines."
    )
    otel: bool = Field(
        False, description="Export OpenTelemetry spans as the OTEL_* variables say. Needs the extra otel."
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("retention")
    @classmethod
    def _check_retention(cls, value: str) -> str:
        if value != "none" and read_duration(value) < MIN_RETENTION_SECONDS:
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
        None, description="Encrypts the private signing keys in the database (32 to 1,023 bytes)."
    )
    public_url: str | None = Field(
        None,
        description="The gateway's URL for clients: https://notify.example.com, or a path of a site.",
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        return None if value is None else read_public_url(value)

    @cached_property
    def backplane(self) -> BackplaneKind:
        """The channel through which the processes notify each other, chosen from the settings."""
        url = None if self.backplane_url is None else self.backplane_url.get_secret_value()
        if url is None:
            return BackplaneKind.MEMORY if self.workers == 1 else BackplaneKind.POSTGRES
        return BackplaneKind(url) if url in set(BackplaneKind) else BackplaneKind.REDIS

    @cached_property
    def mount(self) -> str:
        """The path of `public_url`, such as `/notify`; empty if the gateway has a host of its own."""
        return path_of(self.public_url) if self.public_url else ""

    @cached_property
    def session_limit(self) -> int:
        """Maximum number of sessions of one user; unless set, at least the maximum number of sockets."""
        if "max_sessions_per_user" in self.model_fields_set:
            return self.max_sessions_per_user
        return max(self.max_sessions_per_user, self.max_sockets_per_user)

    @cached_property
    def retention_seconds(self) -> int | None:
        """Age at which an item is deleted, in seconds, or None if items are kept."""
        return None if self.retention == "none" else read_duration(self.retention)

    @cached_property
    def takes_query_token(self) -> bool:
        """Whether the socket accepts `?token=` as a token source."""
        return is_loopback(self.host) if self.ws_query_token is None else self.ws_query_token


OPTIONS = {"host", "port", "workers"}
"""The settings that `gateway serve` also takes as options. An error names the option if it was given."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and `.env`, and options from `overrides`, unless None.

    Raises `SettingsError` with one line for the first invalid setting or option.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        message = first_rule(error, TrustedIssuer.model_fields)
        for name in OPTIONS & given.keys():
            message = message.replace(f"GATEWAY_{name.upper()}: ", f"--{name}: ", 1)
        raise SettingsError(message) from None
