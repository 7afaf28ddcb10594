"""API tokens as JSON Web Tokens (RFC 7519) under HS256, and the key file behind them."""

import hmac
import os
from datetime import UTC, datetime
from pathlib import Path

import jwt

from core.adapters.durable import sync_folder
from core.errors import ConfigurationError
from core.ports.clock import Entropy
from core.ports.secrets import TokenClaims

KEY_BYTES = 32
"""As long as HS256's digest (RFC 7518 §3.2)."""
TOKEN_CHARACTERS_MAX = 4_096
"""A token of ours is a tenth of it; what is longer is not read."""
_ALGORITHM = "HS256"


class JwtTokens:
    """Implements ``Tokens`` with one key, shared by all nodes of an installation."""

    def __init__(self, *, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise ConfigurationError(f"the token key has {len(key)} bytes; it must have {KEY_BYTES}")
        self._key = key

    def sign(self, claims: TokenClaims) -> str:
        """The token; ``operator.operatorId`` is where clients look for it."""
        payload = {
            "jti": claims.token_id,
            "iat": int(claims.issued.timestamp()),
            "exp": int(claims.expires.timestamp()),
            "operator": {"operatorId": claims.operator_id},
            "apiKeySha256": claims.api_key_sha256,
            "generation": claims.generation,
            "authKeyId": claims.auth_key_id,
        }
        return jwt.encode(payload, self._key, algorithm=_ALGORITHM)

    def read(self, token: str) -> TokenClaims | None:
        """The claims if we signed them; whether they are still good is the caller's to decide."""
        if len(token) > TOKEN_CHARACTERS_MAX:
            return None
        try:
            payload = jwt.decode(
                token, self._key, algorithms=[_ALGORITHM], options={"verify_exp": False, "verify_iat": False}
            )
            return TokenClaims(
                token_id=str(payload["jti"]),
                operator_id=str(payload["operator"]["operatorId"]),
                api_key_sha256=str(payload["apiKeySha256"]),
                issued=datetime.fromtimestamp(payload["iat"], UTC),
                expires=datetime.fromtimestamp(payload["exp"], UTC),
                generation=int(payload.get("generation", 0)),
                auth_key_id=str(payload.get("authKeyId", "")),
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, OverflowError, OSError):
            return None


def key_of_secret(secret: str) -> bytes:
    """The key of all nodes that share a secret: whichever serves the API reads the others' tokens."""
    return hmac.digest(secret.encode(), b"airloom token key", "sha256")


def key_of_file(path: Path, entropy: Entropy) -> bytes:
    """The key in this file; made (mode 0600, durable) when there is none.

    Raises ``ConfigurationError`` when it cannot be read, made or used.
    """
    try:
        _make_key(path, entropy.random_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; the token key must be readable") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path}: not {KEY_BYTES} bytes; remove the file (all tokens become invalid)"
        )
    return key


def _make_key(path: Path, key: bytes) -> None:
    """Written to a temporary file, then linked: a second process finds the first one's complete key, also
    after a loss of power.
    """
    if path.exists():
        return
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    finally:
        aside.unlink()
    sync_folder(path.parent)
