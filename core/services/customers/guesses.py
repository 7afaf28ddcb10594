"""Rate limit of failed sign-ins: token buckets that failed attempts empty.

Rules:

- Attempts in parallel do not get around the limit. A password, which costs a core, takes a token before it is
  verified and returns it if it was right; any other secret takes one after it was wrong, if need be below
  empty, so that right ones are not limited however many come at once.
- A request that is refused for another reason than the secret costs nothing.
- Buckets are per name, per source, and per both together: one source cannot lock out others, and many sources
  together are slow at one account.
- The answer does not say which bucket was empty; the audit log does, once for each emptying.
"""

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from math import ceil

from core.domain.reasons import RequestRefusal
from core.errors import Refused, Unavailable
from core.ports.clock import Clock

BUCKETS_MAX = 65_536
"""Beyond it the bucket that was used longest ago is dropped."""


class Guess(Enum):
    """What can be guessed."""

    PASSWORD = "password"  # noqa: S105 - a kind of guess
    AUTH_KEY = "auth_key"
    REGISTRATION_SECRET = "registration_secret"  # noqa: S105 - a kind of guess
    CONTROL_SECRET = "control_secret"  # noqa: S105 - a kind of guess


@dataclass(frozen=True, slots=True)
class Bound:
    """``tries`` failed attempts at once, then one more every ``again_s``."""

    tries: int
    again_s: float


_BOTH, _NAME, _SOURCE = "both", "name", "source"

BOUNDS = {
    Guess.PASSWORD: {_BOTH: Bound(10, 30.0), _NAME: Bound(100, 10.0), _SOURCE: Bound(20, 5.0)},
    Guess.AUTH_KEY: {_BOTH: Bound(20, 10.0), _SOURCE: Bound(100, 1.0)},
    Guess.REGISTRATION_SECRET: {_BOTH: Bound(20, 60.0), _NAME: Bound(200, 10.0), _SOURCE: Bound(50, 30.0)},
    Guess.CONTROL_SECRET: {_SOURCE: Bound(20, 5.0)},
}
"""A password is chosen by a person; the others are random, and their limits bound the work.

The control secret has no bucket over all sources: an attacker with many addresses would empty it, and the
other nodes and the owner would be refused with the right secret.
"""
DEAR = frozenset({Guess.PASSWORD})
DEBT_MAX = 10
"""Times its tries that a bucket may be below empty."""
AUDITED = Bound(100, 60.0)
"""Entries in the audit, of all together."""
_WRONG = {RequestRefusal.NOT_AUTHENTICATED, RequestRefusal.NOT_PERMITTED, RequestRefusal.NOT_FOUND}

_Key = tuple[str, ...]


class Guesses:
    """The buckets of one process. ``audit`` writes down who was stopped at what: subject and detail."""

    def __init__(self, *, clock: Clock, audit: Callable[[str, str], Awaitable[None]]) -> None:
        self._clock = clock
        self._audit = audit
        self._buckets: OrderedDict[_Key, tuple[float, float]] = OrderedDict()
        self.stopped: Counter[str] = Counter()
        """Tries that were not looked at, by what was guessed."""

    @asynccontextmanager
    async def trying(self, guess: Guess, *, name: str = "", source: str = "") -> AsyncIterator[None]:
        """A try at ``name``'s secret from ``source``; ``Refused`` within says that it was wrong.

        Raises ``Refused(TOO_MANY_REQUESTS)`` when there were too many.
        """
        buckets = self._open_buckets(guess, name, source)
        self._pay(buckets, 1 if guess in DEAR else 0)
        is_wrong = False
        try:
            yield
        except Refused as refusal:
            is_wrong = refusal.reason in _WRONG
            raise
        finally:
            self._pay(buckets, is_wrong - (guess in DEAR))
            if is_wrong:
                await self._tell_of_empty(guess, name, source, buckets)

    def _open_buckets(self, guess: Guess, name: str, source: str) -> list[tuple[_Key, Bound]]:
        """Those that a try is paid from; raises ``Refused`` when one is empty."""
        parts = {_BOTH: (name, source), _NAME: (name,), _SOURCE: (source,)}
        wanted = [
            ((guess.value, what, *parts[what]), bound)
            for what, bound in BOUNDS[guess].items()
            if all(parts[what])
        ]
        wait_s = max((self._wait_s(key, bound) for key, bound in wanted), default=0.0)
        if wait_s > 0:
            self.stopped[guess.value] += 1
            raise Refused(
                RequestRefusal.TOO_MANY_REQUESTS, "Too many failed attempts.", retry_after_s=ceil(wait_s)
            )
        return wanted

    def _left(self, key: _Key, bound: Bound) -> float:
        left, at = self._buckets.get(key, (float(bound.tries), 0.0))
        return min(bound.tries, left + (self._clock.monotonic() - at) / bound.again_s)

    def _wait_s(self, key: _Key, bound: Bound) -> float:
        return max(0.0, 1 - self._left(key, bound)) * bound.again_s

    def _pay(self, buckets: Iterable[tuple[_Key, Bound]], tries: int) -> None:
        for key, bound in buckets if tries else ():
            left = max(self._left(key, bound) - tries, -DEBT_MAX * bound.tries)
            if left >= bound.tries:
                self._buckets.pop(key, None)
            else:
                self._put(key, left)

    def _put(self, key: _Key, left: float) -> None:
        self._buckets[key] = (left, self._clock.monotonic())
        self._buckets.move_to_end(key)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)

    async def _tell_of_empty(
        self, guess: Guess, name: str, source: str, buckets: Iterable[tuple[_Key, Bound]]
    ) -> None:
        empty = [key[1] for key, bound in buckets if 0 <= self._left(key, bound) < 1]
        if not empty or self._wait_s(("audit",), AUDITED) > 0:
            return
        self._put(("audit",), self._left(("audit",), AUDITED) - 1)
        with suppress(Unavailable):
            await self._audit(
                name or source,
                f"{guess.value}: too many failed attempts for {', '.join(empty)}; from {source or 'unknown'}",
            )
