"""Address reservations made at Access-Accept, before a session begins (RADIUS).

Rules:

- A reservation is an address and the id that the session will have; it ends by itself when nobody comes.
- One IMSI has one reserved address at a time by each NAS, and by some at most, so asking never drains the
  pool; each time it asks it is for another session, with another id.
- Reservations are not durable. A session that begins on one that a restart forgot gets its address: it is
  allocated to nobody else until the reservation would have ended and been in quarantine
  (``core.services.gateway.address_blocks``).
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
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.running.timer import Timer

OF_IMSI_MAX = 8
"""NASes by which one IMSI has a reservation at a time; beyond it the oldest is taken back."""
EXPECTED_MAX = 65_536
"""Promises without an address of ours; beyond it, or a network's share, one more is not remembered."""

Asker = tuple[str, NasName]
"""A NAS, and the network as which it is known here."""


@dataclass(frozen=True, slots=True)
class _Reservation:
    imsi: str
    asker: Asker
    grant: Grant
    ends: float
    pool: IPv4Network | None


class AddressReservations:
    """The reservations of one gateway instance; bounded by its address pools and by ``EXPECTED_MAX``.

    In every call ``asker`` is who asks, and ``pool`` that of the access point, ``None`` the common one.
    """

    def __init__(
        self, *, gateway: GatewayInstance, clock: Clock, entropy: Entropy, lifetime_s: float
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._entropy = entropy
        self._lifetime_s = lifetime_s
        self._reservations: OrderedDict[str, _Reservation] = OrderedDict()
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
            address = static_address or self._gateway.allocate_address(pool)
        return self._keep(imsi, asker, Grant(self.fresh_id(), address, apn), pool)

    def expect(self, imsi: str, asker: Asker, *, apn: str) -> Grant:
        """What the IMSI's next session will have where the peer gives it an address of its own."""
        if (before := self._find(imsi, asker)) is not None:
            self._forget(before)
        grant = Grant(self.fresh_id(), IPv4Address(0), apn, is_allocated=False)
        return self._keep(imsi, asker, grant, None) if self._expected.take(asker[0]) else grant

    def claim(
        self,
        imsi: str,
        asker: Asker,
        session_id: str,
        address: IPv4Address | None,
        pool: IPv4Network | None = None,
    ) -> Grant:
        """The reservation, now the caller's to open a session with or to give back.

        One that was forgotten is made again from what the peer says of it (``session_id`` may be empty).
        Raises ``Refused``: ``ADDRESSES_OCCUPIED`` if that address is not free, or of another pool;
        ``UNKNOWN_SESSION`` without.
        """
        reservation = self._find(imsi, asker)
        if (
            reservation is not None
            and reservation.pool == pool
            and address in (None, reservation.grant.address)
        ):
            self._forget(reservation)
            return replace(reservation.grant, session_id=session_id or reservation.grant.session_id)
        if address is None:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, imsi)
        self._gateway.claim_address(address, imsi, pool)
        return Grant(session_id or self.fresh_id(), address)

    def apn_of(self, imsi: str, asker: Asker) -> str:
        """The access point of what is reserved; empty without a reservation."""
        reservation = self._find(imsi, asker)
        return "" if reservation is None else reservation.grant.apn

    def fresh_id(self) -> str:
        """The id of a session that begins now."""
        return time_ordered_id(self._clock.now(), self._entropy.random_bytes(10))

    async def run(self) -> None:
        """Take back what nobody comes for, until cancelled."""
        await self._timer.run()

    def get_timer(self) -> float | None:
        """When the oldest reservation ends."""
        return next(iter(self._reservations.values())).ends if self._reservations else None

    def handle_timer(self, now: float) -> None:
        """Take back what nobody came for."""
        while self._reservations and (reservation := next(iter(self._reservations.values()))).ends <= now:
            self._give_up(reservation)

    def _find(self, imsi: str, asker: Asker) -> _Reservation | None:
        for reservation in self._of_imsi.get(imsi, ()):
            if reservation.asker[0] == asker[0] and reservation.asker[1].is_same(asker[1]):
                return reservation
        return None

    def _keep(self, imsi: str, asker: Asker, grant: Grant, pool: IPv4Network | None) -> Grant:
        if len(others := self._of_imsi.get(imsi, [])) >= OF_IMSI_MAX:
            self._give_up(others[0])
        reservation = _Reservation(imsi, asker, grant, self._clock.monotonic() + self._lifetime_s, pool)
        self._reservations[grant.session_id] = reservation
        self._of_imsi.setdefault(imsi, []).append(reservation)
        self._timer.rearm()
        return grant

    def _give_up(self, reservation: _Reservation) -> None:
        self._forget(reservation)
        if reservation.grant.is_allocated:
            self._gateway.release_address(reservation.grant.address, reservation.imsi)

    def _forget(self, reservation: _Reservation) -> None:
        del self._reservations[reservation.grant.session_id]
        if not reservation.grant.is_allocated:
            self._expected.give_back(reservation.asker[0])
        others = self._of_imsi[reservation.imsi]
        others.remove(reservation)
        if not others:
            del self._of_imsi[reservation.imsi]
