"""Cryptography for identity: password hashes and API tokens.

Rule: a secret goes in, a digest or a signed text comes out; nothing here keeps a secret.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class Passwords(Protocol):
    """Slow hashes for passwords that people choose."""

    async def hash(self, password: str) -> str:
        """A salted hash that carries its own parameters. Raises ``Refused(TOO_MANY_REQUESTS)``."""
        ...

    async def verify(self, password_hash: str, password: str) -> bool:
        """Whether the hash is of this password. Raises ``Refused(TOO_MANY_REQUESTS)``."""
        ...


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """The claims of an API token. ``api_key_sha256`` is the hex digest of the API key it was issued with.

    ``generation`` is the operator's at that time, ``auth_key_id`` the auth key used, if any.
    """

    token_id: str
    operator_id: str
    api_key_sha256: str
    issued: datetime
    expires: datetime
    generation: int = 0
    auth_key_id: str = ""


class Tokens(Protocol):
    """API tokens; clients read ``operator.operatorId`` from a token's payload (RFC 7519 shape)."""

    def sign(self, claims: TokenClaims) -> str:
        """The token."""
        ...

    def read(self, token: str) -> TokenClaims | None:
        """The claims, if the signature is valid; the caller checks the times."""
        ...
