"""Types of secret settings: the length and the characters that each must have."""

import re
from typing import Annotated

from pydantic import AfterValidator, SecretStr

_METRICS_TOKEN = re.compile(r"[!-~]{16,}")


def _check_metrics_token(value: SecretStr) -> SecretStr:
    if not _METRICS_TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("it must have 16 characters or more, all of them printable ASCII without spaces")
    return value


def _check_jwt_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < 32:  # noqa: PLR2004
        raise ValueError("it must have 32 bytes or more")
    return value


def _check_key_encryption_key(value: SecretStr) -> SecretStr:
    # OpenSSL accepts passphrases of at most 1,023 bytes.
    if not 32 <= len(value.get_secret_value().encode()) <= 1023:  # noqa: PLR2004
        raise ValueError("it must have 32 to 1,023 bytes")
    return value


MetricsToken = Annotated[SecretStr, AfterValidator(_check_metrics_token)]
JwtSecret = Annotated[SecretStr, AfterValidator(_check_jwt_secret)]
KeyEncryptionKey = Annotated[SecretStr, AfterValidator(_check_key_encryption_key)]
