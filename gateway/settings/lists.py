"""Types of list settings: names separated by commas, and issuers as a JSON array."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from gateway.settings.networks import unmapped_network
from gateway.settings.origins import read_origin, why_no_origin
from gateway.settings.trusted_issuer import TrustedIssuer


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    origins = {origin: read_origin(origin) for origin in value}
    for origin, read in origins.items():
        if read is None:
            raise ValueError(why_no_origin(origin))
    return tuple(read for read in origins.values() if read is not None)


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    networks = []
    for network in value:
        try:
            networks.append(unmapped_network(network))
        except ValueError:
            raise ValueError(f"{network!r} is neither an address nor a network") from None
    return tuple(networks)


def _check_categories(value: tuple[str, ...]) -> tuple[str, ...]:
    for category in value:
        if _CATEGORY.fullmatch(category) is None:
            raise ValueError(
                f"{category!r} is no category: it must have 1 to 64 small letters, digits, . _ -"
            )
    return value


_CATEGORY = re.compile("[a-z0-9._-]{1,64}")


def _read_issuers(value: Any) -> Any:
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        read = None
    if isinstance(read, list | tuple) and all(isinstance(one, dict | TrustedIssuer) for one in read):
        return read
    raise ValueError("it must be a JSON array of objects")


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_origins)]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_networks)]
Categories = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_categories)]
Issuers = Annotated[tuple[TrustedIssuer, ...], NoDecode, BeforeValidator(_read_issuers)]
