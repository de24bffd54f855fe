"""Discovery documents for clients: the public keys, and the metadata of the OAuth endpoints."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel

from gateway.api.problems import ANY
from gateway.api.state import State
from gateway.auth.principals import INBOX
from gateway.auth.services import SERVICE_SCOPES
from gateway.protocol.encoding import dumps
from gateway.transport.conditional import etag_of, not_modified

router = APIRouter(prefix="/.well-known", tags=["auth"])

_CACHE_CONTROL = "public, max-age=300"

_CLIENT_AUTHENTICATION = ["client_secret_basic", "client_secret_post", "none"]


class KeySet(BaseModel):
    """Public keys (RFC 7517, section 5)."""

    keys: list[dict[str, str]]


class ServerMetadata(BaseModel):
    """What the gateway does as an authorization server (RFC 8414, section 2)."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]


@router.get(
    "/jwks.json",
    response_model=KeySet,
    responses=ANY | {304: {"description": "Nothing has changed since the `ETag` that was sent."}},
    summary="The keys that verify access tokens",
)
async def jwks(state: State, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return the public keys (RFC 7517). There are none where a shared secret signs.

    A verifier that meets an unknown `kid` reads them again: a new key signs only when it is here.
    """
    return _cached(state.tokens.jwks(), _CACHE_CONTROL, if_none_match)


@router.get(
    "/oauth-authorization-server",
    response_model=ServerMetadata,
    responses=ANY | {304: {"description": "Nothing has changed since the `ETag` that was sent."}},
    summary="Where the OAuth endpoints are",
)
async def metadata(
    state: State, request: Request, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Return the metadata of the authorization server (RFC 8414).

    The addresses begin with `GATEWAY_PUBLIC_URL`, or with what the request was sent to: that is what its
    client said, so no cache may keep it for others.
    """
    settings = state.settings
    base = settings.public_url or str(request.base_url).rstrip("/")
    found = ServerMetadata(
        issuer=settings.issuer,
        token_endpoint=f"{base}/v1/auth/token",
        revocation_endpoint=f"{base}/v1/auth/revoke",
        jwks_uri=f"{base}/.well-known/jwks.json",
        scopes_supported=[INBOX, *SERVICE_SCOPES],
        # Empty, because there is no authorization endpoint.
        response_types_supported=[],
        grant_types_supported=["password", "refresh_token", "client_credentials"],
        token_endpoint_auth_methods_supported=_CLIENT_AUTHENTICATION,
        revocation_endpoint_auth_methods_supported=_CLIENT_AUTHENTICATION,
    )
    return _cached(found.model_dump(), _CACHE_CONTROL if settings.public_url else "no-store", if_none_match)


def _cached(content: dict[str, Any], caching: str, if_none_match: str | None) -> Response:
    """Return JSON with an `ETag`, or 304 if the client has this version (RFC 9110, section 13.1.2)."""
    text = dumps(content)
    headers = {"ETag": etag_of(text.encode()), "Cache-Control": caching}
    return not_modified(if_none_match, headers) or Response(
        text, headers=headers, media_type="application/json"
    )
