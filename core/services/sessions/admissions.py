"""Admissions: what was promised to a device before its session begins (RADIUS Access-Accept).

Rules:

- A promise is an address and the id that the session will have; it ends by itself when nobody comes.
- One IMSI is promised one address at a time by each NAS, and by some at most, so asking never drains the
  pool; each time it asks it is for another session, with another id.
- Promises are not durable. A session that begins on one that a restart forgot gets its address: it is lent to
  nobody else until the promise would have ended and rested (``core.services.gateway.blocks``).
"""

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from core.domain.ids import time_ordered_id
from core.domain.reasons import AttachRefusal
from core.domain.requests import Grant
from core.domain.session import NasName
from core.domain.shares import Places
from core.domain.values import replace
from core.errors import Refused
from core.ports.clock import Clock, Entropy
from core.services.gateway.virtual_gateway import VirtualGateway
from core.services.running.timer import Timer

OF_IMSI_MAX = 8
"""NASes by which one IMSI has a promise at a time; beyond it the oldest is taken back."""
EXPECTED_MAX = 65_536
"""Promises without an address of ours; beyond it, or a network's share, one more is not remembered."""

Asker = tuple[str, NasName]
"""A NAS, and the network as which it is known here."""


@dataclass(frozen=True, slots=True)
class _Promise:
    imsi: str
    asker: Asker
    grant: Grant
    ends: float
    pool: IPv4Network | None


class Admissions:
    """The promises of one virtual gateway; bounded by its address pools and by ``EXPECTED_MAX``.

    In every call ``asker`` is who asks, and ``pool`` that of the access point, ``None`` the common one.
    """

    def __init__(self, *, gateway: VirtualGateway, clock: Clock, entropy: Entropy, lifetime_s: float) -> None:
        self._gateway = gateway
        self._clock = clock
        self._entropy = entropy
        self._lifetime_s = lifetime_s
        self._promises: OrderedDict[str, _Promise] = OrderedDict()
        self._of_imsi: dict[str, list[_Promise]] = {}
        self._expected = Places(EXPECTED_MAX)
        self._timer = Timer(self, clock=clock, shortest_s=lifetime_s)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._promises)

    def promise(
        self,
        imsi: str,
        asker: Asker,
        *,
        apn: str,
        static_address: IPv4Address | None = None,
        pool: IPv4Network | None = None,
    ) -> Grant:
        """What the IMSI's next session will have, its SIM's own address if there is one.

        Raises ``Refused(ADDRESSES_OCCUPIED)``, ``Unavailable``.
        """
        before = self._find(imsi, asker)
        if before is not None:
            self._forget(before)
        address = before.grant.address if before is not None else None
        if before is not None and address is not None and address != static_address:
            if static_address is not None or self._gateway.is_static(address) or before.pool != pool:
                self._gateway.release_address(address, imsi)
                address = None
        if address is None:
            address = static_address or self._gateway.lease_address(pool)
        return self._keep(imsi, asker, Grant(self.fresh_id(), address, apn), pool)

    def expect(self, imsi: str, asker: Asker, *, apn: str) -> Grant:
        """What the IMSI's next session will have where the peer gives it an address of its own."""
        if (before := self._find(imsi, asker)) is not None:
            self._forget(before)
        grant = Grant(self.fresh_id(), IPv4Address(0), apn, is_lent=False)
        return self._keep(imsi, asker, grant, None) if self._expected.take(asker[0]) else grant

    def redeem(
        self,
        imsi: str,
        asker: Asker,
        session_id: str,
        address: IPv4Address | None,
        pool: IPv4Network | None = None,
    ) -> Grant:
        """The promise, now the caller's to open a session with or to give back.

        One that was forgotten is made again from what the peer says of it (``session_id`` may be empty).
        Raises ``Refused``: ``ADDRESSES_OCCUPIED`` if that address is not free, or of another pool;
        ``UNKNOWN_SESSION`` without.
        """
        promise = self._find(imsi, asker)
        if promise is not None and promise.pool == pool and address in (None, promise.grant.address):
            self._forget(promise)
            return replace(promise.grant, session_id=session_id or promise.grant.session_id)
        if address is None:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, imsi)
        self._gateway.claim_address(address, imsi, pool)
        return Grant(session_id or self.fresh_id(), address)

    def apn_of(self, imsi: str, asker: Asker) -> str:
        """The access point of what is promised; empty without a promise."""
        promise = self._find(imsi, asker)
        return "" if promise is None else promise.grant.apn

    def fresh_id(self) -> str:
        """The id of a session that begins now."""
        return time_ordered_id(self._clock.now(), self._entropy.random_bytes(10))

    async def run(self) -> None:
        """Take back what nobody comes for, until cancelled."""
        await self._timer.run()

    def get_timer(self) -> float | None:
        """When the oldest promise ends."""
        return next(iter(self._promises.values())).ends if self._promises else None

    def handle_timer(self, now: float) -> None:
        """Take back what nobody came for."""
        while self._promises and (promise := next(iter(self._promises.values()))).ends <= now:
            self._give_up(promise)

    def _find(self, imsi: str, asker: Asker) -> _Promise | None:
        for promise in self._of_imsi.get(imsi, ()):
            if promise.asker[0] == asker[0] and promise.asker[1].is_same(asker[1]):
                return promise
        return None

    def _keep(self, imsi: str, asker: Asker, grant: Grant, pool: IPv4Network | None) -> Grant:
        if len(others := self._of_imsi.get(imsi, [])) >= OF_IMSI_MAX:
            self._give_up(others[0])
        promise = _Promise(imsi, asker, grant, self._clock.monotonic() + self._lifetime_s, pool)
        self._promises[grant.session_id] = promise
        self._of_imsi.setdefault(imsi, []).append(promise)
        self._timer.rearm()
        return grant

    def _give_up(self, promise: _Promise) -> None:
        self._forget(promise)
        if promise.grant.is_lent:
            self._gateway.release_address(promise.grant.address, promise.imsi)

    def _forget(self, promise: _Promise) -> None:
        del self._promises[promise.grant.session_id]
        if not promise.grant.is_lent:
            self._expected.give_back(promise.asker[0])
        others = self._of_imsi[promise.imsi]
        others.remove(promise)
        if not others:
            del self._of_imsi[promise.imsi]
