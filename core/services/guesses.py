"""How often a credential or a secret may be wrong: token buckets that wrong tries empty.

Rules:

- A try is taken before anything is looked up and given back when it was right, so that many at a time are no
  way around; what was refused for another reason than the secret is given back too.
- Buckets are of whoever is named, of where it comes from, and of both together: one source denies nobody else
  their sign-in, and many sources together are slow at one account.
- Which bucket was empty is not told; an entry of the audit tells it, once for each emptying.
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
"""Beyond it the one that was tried the longest ago is forgotten."""


class Guess(Enum):
    """What can be guessed."""

    PASSWORD = "password"  # noqa: S105 - a kind of guess
    AUTH_KEY = "auth_key"
    REGISTRATION_SECRET = "registration_secret"  # noqa: S105 - a kind of guess
    CONTROL_SECRET = "control_secret"  # noqa: S105 - a kind of guess


@dataclass(frozen=True, slots=True)
class Bound:
    """So many wrong tries at once; then one more each ``again_s``."""

    tries: int
    again_s: float


_BOTH, _NAME, _SOURCE = "both", "name", "source"

BOUNDS = {
    Guess.PASSWORD: {_BOTH: Bound(10, 30.0), _NAME: Bound(100, 10.0), _SOURCE: Bound(20, 5.0)},
    Guess.AUTH_KEY: {_BOTH: Bound(20, 10.0), _SOURCE: Bound(100, 1.0)},
    Guess.REGISTRATION_SECRET: {_NAME: Bound(20, 60.0), _SOURCE: Bound(50, 30.0)},
    Guess.CONTROL_SECRET: {_SOURCE: Bound(20, 5.0)},
}
"""A password is chosen by a person, the others are random: what is bounded there is the work."""
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
        taken = self._take(guess, name, source)
        try:
            yield
        except Refused as refusal:
            if refusal.reason in _WRONG:
                await self._tell_of_empty(guess, name, source, taken)
            else:
                self._give_back(taken)
            raise
        except BaseException:
            self._give_back(taken)
            raise
        self._give_back(taken)

    def _take(self, guess: Guess, name: str, source: str) -> list[tuple[_Key, Bound]]:
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
                RequestRefusal.TOO_MANY_REQUESTS, "Too many wrong tries.", retry_after_s=ceil(wait_s)
            )
        for key, bound in wanted:
            self._put(key, self._left(key, bound) - 1)
        return wanted

    def _left(self, key: _Key, bound: Bound) -> float:
        left, at = self._buckets.get(key, (float(bound.tries), 0.0))
        return min(bound.tries, left + (self._clock.monotonic() - at) / bound.again_s)

    def _wait_s(self, key: _Key, bound: Bound) -> float:
        return max(0.0, 1 - self._left(key, bound)) * bound.again_s

    def _put(self, key: _Key, left: float) -> None:
        self._buckets[key] = (left, self._clock.monotonic())
        self._buckets.move_to_end(key)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)

    def _give_back(self, taken: Iterable[tuple[_Key, Bound]]) -> None:
        for key, bound in taken:
            if (left := self._left(key, bound) + 1) >= bound.tries:
                self._buckets.pop(key, None)
            else:
                self._put(key, left)

    async def _tell_of_empty(
        self, guess: Guess, name: str, source: str, taken: Iterable[tuple[_Key, Bound]]
    ) -> None:
        empty = [what for (_, what, *_), _ in ((key, b) for key, b in taken if self._left(key, b) < 1)]
        if not empty or self._wait_s(("audit",), AUDITED) > 0:
            return
        self._put(("audit",), self._left(("audit",), AUDITED) - 1)
        with suppress(Unavailable):
            await self._audit(
                name or source,
                f"{guess.value}: too many wrong tries of {', '.join(empty)}; from {source or 'unknown'}",
            )
