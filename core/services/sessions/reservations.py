"""Address reservations made at Access-Accept, before a session begins (RADIUS).

Rules:

- A reservation is an address and the id that the session will have; it ends by itself when no session begins.
- An IMSI has one reservation at a time for each NAS, and ``OF_IMSI_MAX`` in all, so that requests never drain
  the pool. The next request renews it: the same address, for another session with another id.
- Reservations are not durable. A session that begins on one that a restart forgot gets its address: until the
  reservation would have ended and been in quarantine, it is allocated to no other SIM
  (``core.services.gateway.address_blocks``).
"""

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
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.running.timer import Timer

OF_IMSI_MAX = 8
"""Reservations of one IMSI, each for another NAS; beyond it the oldest is taken back."""
EXPECTED_MAX = 65_536
"""Reservations without an address of ours; beyond it, or a network's share, one more is not remembered."""

Asker = tuple[str, NasName]
"""A NAS, and the network as which it is known here."""


@dataclass(slots=True, eq=False)
class _Reservation:
    """``ends`` by ``Clock.monotonic``; ``pool`` is the access point's, ``None`` the common one."""

    imsi: str
    asker: Asker
    grant: Grant
    ends: float
    pool: IPv4Network | None


class AddressReservations:
    """The reservations of one gateway instance; bounded by its address pools and by ``EXPECTED_MAX``.

    In each call ``asker`` is the NAS that asks, ``pool`` the access point's, ``None`` the common one.
    """

    def __init__(
        self, *, gateway: GatewayInstance, clock: Clock, entropy: Entropy, lifetime_s: float
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._entropy = entropy
        self._lifetime_s = lifetime_s
        self._reservations: dict[_Reservation, None] = {}
        """In the order in which they end."""
        self._of_imsi: dict[str, list[_Reservation]] = {}
        self._expected = Places(EXPECTED_MAX)
        self._timer = Timer(self, clock=clock, shortest_s=lifetime_s)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._reservations)

    def reserve(
        self,
        imsi: str,
        asker: Asker,
        *,
        apn: str,
        static_address: IPv4Address | None = None,
        pool: IPv4Network | None = None,
    ) -> Grant:
        """The id and address of the IMSI's next session: its SIM's static address if it has one.

        Raises ``Refused(ADDRESSES_OCCUPIED)``, ``Unavailable``.
        """
        before = self._find(imsi, asker)
        if before is not None:
            if self._fits(before, static_address, pool):
                return self._renew(before, Grant(self.fresh_id(), before.grant.address, apn), pool)
            self._give_up(before)
        address = static_address or self._gateway.allocate_address(pool)
        return self._keep(imsi, asker, Grant(self.fresh_id(), address, apn), pool)

    def expect(self, imsi: str, asker: Asker, *, apn: str) -> Grant:
        """The id of the IMSI's next session where the peer gives it an address of its own."""
        grant = Grant(self.fresh_id(), IPv4Address(0), apn, is_allocated=False)
        if (before := self._find(imsi, asker)) is not None:
            if not before.grant.is_allocated:
                return self._renew(before, grant, None)
            self._give_up(before)
        return self._keep(imsi, asker, grant, None) if self._expected.take(asker[0]) else grant

    def claim(
        self,
        imsi: str,
        asker: Asker,
        session_id: str,
        address: IPv4Address | None,
        pool: IPv4Network | None = None,
    ) -> Grant:
        """The reservation; the caller opens a session with it, or gives its address back.

        One that was forgotten is made again from the peer's ``address`` and ``session_id``, which may be
        empty. Raises ``Refused``: ``ADDRESSES_OCCUPIED`` if that address is not free, or of another pool;
        ``UNKNOWN_SESSION`` without an address.
        """
        before = self._find(imsi, asker)
        if before is not None and before.pool == pool and address in (None, before.grant.address):
            self._forget(before)
            return replace(before.grant, session_id=session_id or before.grant.session_id)
        if address is None:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, imsi)
        self._gateway.claim_address(address, imsi, pool)
        return Grant(session_id or self.fresh_id(), address)

    def apn_of(self, imsi: str, asker: Asker) -> str:
        """The access point of the reservation; empty without one."""
        reservation = self._find(imsi, asker)
        return "" if reservation is None else reservation.grant.apn

    def fresh_id(self) -> str:
        """The id of a session that begins now."""
        return time_ordered_id(self._clock.now(), self._entropy.random_bytes(10))

    async def run(self) -> None:
        """Take expired reservations back, until cancelled."""
        await self._timer.run()

    def get_timer(self) -> float | None:
        """When the oldest reservation ends."""
        return next(iter(self._reservations)).ends if self._reservations else None

    def handle_timer(self, now: float) -> None:
        """Take expired reservations back."""
        while self._reservations and (reservation := next(iter(self._reservations))).ends <= now:
            self._give_up(reservation)

    def _find(self, imsi: str, asker: Asker) -> _Reservation | None:
        if imsi not in self._of_imsi:
            return None
        for reservation in self._of_imsi[imsi]:
            before = reservation.asker
            if before == asker or (before[0] == asker[0] and before[1].is_same(asker[1])):
                return reservation
        return None

    def _fits(
        self, before: _Reservation, static_address: IPv4Address | None, pool: IPv4Network | None
    ) -> bool:
        """Whether the address that was reserved before is still the one to reserve."""
        grant = before.grant
        if static_address is not None:
            return grant.address == static_address
        return grant.is_allocated and before.pool == pool and not self._gateway.is_static(grant.address)

    def _renew(self, before: _Reservation, grant: Grant, pool: IPv4Network | None) -> Grant:
        """It ends later now: the timer, which rings earlier, stays as it is."""
        del self._reservations[before]
        before.grant, before.pool = grant, pool
        before.ends = self._clock.monotonic() + self._lifetime_s
        self._reservations[before] = None
        return grant

    def _keep(self, imsi: str, asker: Asker, grant: Grant, pool: IPv4Network | None) -> Grant:
        if len(self._of_imsi.get(imsi, ())) >= OF_IMSI_MAX:
            self._give_up(min(self._of_imsi[imsi], key=lambda each: each.ends))
        reservation = _Reservation(imsi, asker, grant, self._clock.monotonic() + self._lifetime_s, pool)
        self._reservations[reservation] = None
        self._of_imsi.setdefault(imsi, []).append(reservation)
        self._timer.rearm()
        return grant

    def _give_up(self, reservation: _Reservation) -> None:
        self._forget(reservation)
        if reservation.grant.is_allocated:
            self._gateway.release_address(reservation.grant.address, reservation.imsi)

    def _forget(self, reservation: _Reservation) -> None:
        del self._reservations[reservation]
        if not reservation.grant.is_allocated:
            self._expected.give_back(reservation.asker[0])
        others = self._of_imsi[reservation.imsi]
        others.remove(reservation)
        if not others:
            del self._of_imsi[reservation.imsi]
