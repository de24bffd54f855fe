"""The trusted issuer: one foreign issuer in `GATEWAY_TRUSTED_ISSUERS`."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.settings.origins import is_loopback
from gateway.settings.wording import in_words

_RULE = "it must be a URL such as https://login.example.com/jwks.json"


class TrustedIssuer(BaseModel):
    """A foreign issuer whose tokens the gateway accepts for users.

    Only algorithms with a key pair are allowed: with a shared secret, any verifier could also issue tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks_url: str
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"],
        ...,
    ] = Field(("RS256", "ES256", "EdDSA"), min_length=1)
    subject_claim: str = Field("sub", min_length=1)
    subject_prefix: str = Field("", max_length=100)
    without_typ: bool = False
    required_scope: str | None = Field(None, pattern=in_words("be one word", r"^\S+$"))

    @field_validator("jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            port = url.port
        except ValueError:
            raise ValueError(_RULE) from None
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            raise ValueError("it must be https: only on a loopback address may it be http")
        strange = "@" in url.netloc or url.fragment or port == 0
        if url.scheme not in {"http", "https"} or not url.hostname or strange:
            raise ValueError(_RULE)
        return value

    @property
    def shown_url(self) -> str:
        """The URL of the keys without its query, which may hold a secret."""
        return self.jwks_url.partition("?")[0]
