"""Passwords and tokens: what identity needs of cryptography.

Rule: a secret goes in, a digest or a signed text comes out; nothing here keeps a secret.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class Passwords(Protocol):
    """Slow hashes for what people choose themselves."""

    async def hash(self, password: str) -> str:
        """A salted hash that carries its own parameters. Raises ``Refused(TOO_MANY_REQUESTS)``."""
        ...

    async def verify(self, password_hash: str, password: str) -> bool:
        """Whether the hash was made of this password. Raises ``Refused(TOO_MANY_REQUESTS)``."""
        ...


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What an API token says. ``api_key_sha256`` is the hex digest of the API key it was given out with.

    ``generation`` is the operator's when it was made, ``auth_key_id`` the key that it was made by, if one.
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
        """The claims, if the signature is ours; the caller looks at the times."""
        ...
