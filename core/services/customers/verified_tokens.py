"""The claims of API tokens whose signature was verified a moment ago.

Rules:

- What is kept follows from the token and the signing key alone, which a process never changes: that the
  signature is ours, and what the token says. Whether the token is still good (expiry, sign-out, password,
  auth key, closed account, the API key beside it) is decided at each call, by ``Identity``.
- A token is looked up by its SHA-256, so nothing kept here can be sent as a token, and the time of a look-up
  says nothing about one. What was not signed by us is not kept, so only customers fill the table.
- An operator has at most ``OPERATOR_TOKENS_MAX`` entries: signing in often displaces its own, not others'.
"""

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass

from core.ports.clock import Clock
from core.ports.secrets import TokenClaims, Tokens

KEPT_S = 60.0
TOKENS_MAX = 10_000
"""Entries; beyond it the oldest is dropped. One takes about a kilobyte."""
OPERATOR_TOKENS_MAX = 32


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: TokenClaims
    until: float


class VerifiedTokens:
    """Implements ``Tokens``; verifies a token by ``tokens`` once in ``KEPT_S`` while it is in use."""

    def __init__(self, *, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._of_operator: dict[str, deque[bytes]] = {}

    def __len__(self) -> int:
        """How many tokens are kept."""
        return len(self._verified)

    def sign(self, claims: TokenClaims) -> str:
        """See ``Tokens``."""
        return self._tokens.sign(claims)

    def read(self, token: str) -> TokenClaims | None:
        """See ``Tokens``."""
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        now = self._clock.monotonic()
        verified = self._verified.get(digest)
        if verified is not None and now < verified.until:
            return verified.claims
        claims = self._tokens.read(token)
        if claims is not None:
            self._make_room(claims.operator_id, now)
            self._verified[digest] = _Verified(claims, now + KEPT_S)
            self._of_operator.setdefault(claims.operator_id, deque()).append(digest)
        return claims

    def _make_room(self, operator_id: str, now: float) -> None:
        """Drop what is over, then the operator's oldest if it has its share, or the oldest of all."""
        while (oldest := self._oldest()) is not None and oldest.until <= now:
            self._drop_oldest_of(oldest.claims.operator_id)
        if len(self._of_operator.get(operator_id, ())) >= OPERATOR_TOKENS_MAX:
            self._drop_oldest_of(operator_id)
        elif oldest is not None and len(self._verified) >= TOKENS_MAX:
            self._drop_oldest_of(oldest.claims.operator_id)

    def _oldest(self) -> _Verified | None:
        return next(iter(self._verified.values()), None)

    def _drop_oldest_of(self, operator_id: str) -> None:
        own = self._of_operator[operator_id]
        del self._verified[own.popleft()]
        if not own:
            del self._of_operator[operator_id]
