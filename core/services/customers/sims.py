"""Operations of customers on SIMs.

Rules:

- A SIM's status changes by ``TRANSITIONS`` alone; what is not in the table is refused.
- Of a terminated SIM only group and tags can change.
- A SIM or group of another operator is not found, in the same words as one that never was.
- A status that may not be connected is durable first, then the SIM's sessions end; what they go by is
  durable first, then it takes effect. Repeating the call finishes what a crash left between the two.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address, IPv4Network

from core.domain.reasons import RequestRefusal
from core.domain.session import CloseReason, Session, SessionEvent, SessionEventKind
from core.domain.sim import CUTS_SESSION, TRANSITIONS, Sim, SimEvent, SimStatus, Subscriber
from core.domain.speed import SPEEDS_KBPS
from core.domain.values import replace
from core.errors import Refused, StaleVersion, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.sessions import SessionControl
from core.ports.store import Page, Store
from core.services.customers.filtered import filtered_page
from core.services.customers.tags import check_tags

CHANGE_TRIES_MAX = 16
"""How often a change reads again because the SIM was written in between."""
DRAWS_MAX = 16
"""How often a new SIM's numbers are drawn again because another SIM has them."""
PREVIOUS_WITHIN = 20
"""Events of a SIM's history among which the end of its last session is looked for."""

IMSI_DIGITS = 15
IMEI_DIGITS = (14, 15, 16)
"""Without its check digit, with it, and with the version of its software (TS 23.003 §6.2)."""

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_ICCID_PREFIX = "8981100"
"""Telecommunications, Japan, an issuer (ITU-T E.118)."""


@dataclass(frozen=True, slots=True)
class InStock:
    """A SIM without a customer, and the secret that registers it, which is not stored and not shown again."""

    sim: Sim
    registration_secret: str = field(repr=False)


class Sims:
    """A customer's verbs; each one raises ``Refused`` with a ``RequestRefusal``, or ``Unavailable``."""

    def __init__(
        self,
        *,
        store: Store,
        control: SessionControl,
        clock: Clock,
        entropy: Entropy,
        stock_plmn: str = "00101",
        static_pool: IPv4Network | None = None,
    ) -> None:
        """``stock_plmn``: MCC and MNC of the SIMs in stock (TS 23.003 §2.2), by default the test network.
        ``static_pool``: what static addresses are of.
        """
        self._static_pool = static_pool
        self._store = store
        self._stock_plmn = stock_plmn
        self._control = control
        self._clock = clock
        self._entropy = entropy

    # -- reading --------------------------------------------------------------------------------------

    async def get(self, operator_id: str, sim_id: str) -> Sim:
        """One SIM of the operator's."""
        sim = await self._store.sims.get(sim_id)
        if sim is None or not operator_id or sim.operator_id != operator_id:
            raise _no_such_sim()
        return sim

    async def id_of_imsi(self, operator_id: str, imsi: str) -> str:
        """The operator's SIM with this IMSI."""
        sim_id = await self._store.sims.sim_id_of_imsi(imsi)
        return (await self.get(operator_id, sim_id or "")).sim_id

    async def id_in_stock(self, operator_id: str, imsi: str) -> str:
        """The SIM with this IMSI that the operator might register, or registered already."""
        sim_id = await self._store.sims.sim_id_of_imsi(imsi)
        sim = await self._store.sims.get(sim_id) if sim_id else None
        if sim is None or sim.operator_id not in ("", operator_id):
            raise _not_to_register()
        return sim.sim_id

    async def page(
        self,
        operator_id: str,
        *,
        after: str = "",
        limit: int = 100,
        matches: Callable[[Sim], bool] | None = None,
    ) -> Page[Sim]:
        """The operator's SIMs by id; with ``matches`` only those, and a page may then be short."""
        return await filtered_page(
            partial(self._store.sims.of_operator, operator_id),
            matches,
            key_of=lambda sim: sim.sim_id,
            after=after,
            limit=limit,
        )

    async def count(self, operator_id: str) -> int:
        """How many it has, or are in stock; beyond ``PAGE_MAX`` one more than that."""
        return await self._store.sims.count_of_operator(operator_id)

    async def with_static_address(self, operator_id: str, *, after: str, limit: int) -> Page[Sim]:
        """The operator's SIMs that have a static address, by address."""
        try:
            key = str(int(IPv4Address(after))) if after else ""
        except ValueError:
            raise Refused(RequestRefusal.INVALID_FIELD, "last_evaluated_key: not an address") from None
        found = await self._store.sims.with_static_address(operator_id, after=key, limit=limit)
        return Page(found.items, str(IPv4Address(int(found.next_key))) if found.next_key else "")

    async def sessions_of(self, sim_id: str) -> list[Session]:
        """The open sessions of a SIM, oldest first."""
        return list(await self._store.sessions.of_sim(sim_id))

    async def sessions_of_each(self, sims: Sequence[Sim]) -> Sequence[Sequence[Session]]:
        """The same of each of a page of SIMs, in one read."""
        return await self._store.sessions.of_sims([sim.sim_id for sim in sims])

    async def previous_session(self, operator_id: str, sim_id: str) -> SessionEvent | None:
        """The end of the SIM's last session that ended, if it is among its newest events."""
        until = self._clock.now() + timedelta(days=1)
        events = self._store.sessions.events
        page = await events(sim_id, since=_BEGINNING, until=until, limit=PREVIOUS_WITHIN)
        for event in page.items:
            if event.kind is SessionEventKind.DELETED and event.operator_id == operator_id:
                return event
        return None

    async def session_events(
        self, operator_id: str, sim_id: str, *, since: datetime, until: datetime, after: str, limit: int
    ) -> Page[SessionEvent]:
        """The history of a SIM's sessions, newest first; an earlier owner's part is left out."""
        await self.get(operator_id, sim_id)
        page = await self._store.sessions.events(sim_id, since=since, until=until, after=after, limit=limit)
        own = tuple(event for event in page.items if event.operator_id == operator_id)
        return Page(own, page.next_key)

    # -- changing -------------------------------------------------------------------------------------

    async def create_in_stock(self, *, subscription: str, bundles: tuple[str, ...] = ()) -> InStock:
        """A new SIM in stock, with free numbers."""
        secret = self._entropy.random_bytes(10).hex()
        now = self._clock.now()
        for _ in range(DRAWS_MAX):
            sim_id = _with_check_digit(f"{_ICCID_PREFIX}{self._digits(11)}")
            imsi = self._stock_plmn + self._digits(IMSI_DIGITS - len(self._stock_plmn))
            sim = Sim(
                sim_id=sim_id,
                subscribers=(Subscriber(imsi, "", subscription, bundles),),
                registration_secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
                created=now,
                modified=now,
                serial_number=sim_id,
            )
            try:
                return InStock(await self._store.sims.put(sim), secret)
            except StaleVersion:
                continue
        raise Unavailable("no unused SIM number was found; try again")

    async def register(
        self,
        operator_id: str,
        sim_id: str,
        secret: str,
        *,
        group_id: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Sim:
        """Make a SIM in stock the operator's own, by showing its secret.

        A SIM that is not there, one of another operator and a wrong secret are refused in the same words.
        """
        check_tags(tags or {})
        await self._check_group(operator_id, group_id)
        for _ in range(CHANGE_TRIES_MAX):
            sim = await self._store.sims.get(sim_id)
            if sim is not None and sim.operator_id == operator_id:
                raise Refused(RequestRefusal.ALREADY_REGISTERED, "The SIM is registered already.")
            if sim is None or sim.operator_id or not _fits(secret, sim):
                raise _not_to_register()
            registered = replace(
                sim,
                operator_id=operator_id,
                status=_next_status(sim, SimEvent.REGISTER),
                group_id=group_id,
                tags={**sim.tags, **(tags or {})},
                modified=self._clock.now(),
            )
            try:
                return await self._store.sims.put(registered)
            except StaleVersion:
                continue
        raise Unavailable(f"SIM {sim_id}: concurrent updates; try again")

    async def apply(self, operator_id: str, sim_id: str, event: SimEvent) -> Sim:
        """Activate, deactivate, set to standby, suspend or terminate; cut what may not be connected."""

        def changed(sim: Sim) -> Sim:
            status = _next_status(sim, event)
            if event is SimEvent.TERMINATE and not sim.termination_enabled:
                raise Refused(RequestRefusal.TERMINATION_PROTECTED, "Enable termination first.")
            static_address = None if status is SimStatus.TERMINATED else sim.static_address
            return replace(sim, status=status, static_address=static_address)

        sim = await self._change(operator_id, sim_id, changed)
        if sim.status in CUTS_SESSION:
            await self._control.end_sessions_of(sim_id, CloseReason.CUSTOMER)
        return sim

    async def end(self, operator_id: str, sim_id: str) -> None:
        """Terminate it for good, protected or not, with its sessions."""

        def changed(sim: Sim) -> Sim:
            return replace(sim, status=SimStatus.TERMINATED, static_address=None)

        await self._change(operator_id, sim_id, changed)
        await self._control.end_sessions_of(sim_id, CloseReason.CUSTOMER)

    async def set_termination(self, operator_id: str, sim_id: str, *, enabled: bool) -> Sim:
        """Take the protection from termination away, or put it back."""
        return await self._change(operator_id, sim_id, lambda sim: replace(sim, termination_enabled=enabled))

    async def set_group(self, operator_id: str, sim_id: str, group_id: str) -> Sim:
        """Put the SIM into a group of the operator's; an empty ``group_id`` takes it out."""
        await self._check_group(operator_id, group_id)
        sim = await self._change(
            operator_id, sim_id, lambda sim: replace(sim, group_id=group_id), also_terminated=True
        )
        await self._control.refresh_sessions_of(sim_id)
        return sim

    async def put_tags(self, operator_id: str, sim_id: str, tags: Mapping[str, str]) -> Sim:
        """Add tags, or replace those of the same names."""

        def changed(sim: Sim) -> Sim:
            merged = {**sim.tags, **tags}
            check_tags(merged)
            return replace(sim, tags=merged)

        return await self._change(operator_id, sim_id, changed, also_terminated=True)

    async def delete_tag(self, operator_id: str, sim_id: str, name: str) -> Sim:
        """Remove a tag that is there."""

        def changed(sim: Sim) -> Sim:
            if name not in sim.tags:
                raise Refused(RequestRefusal.NOT_FOUND, "No such tag found.")
            return replace(sim, tags={k: v for k, v in sim.tags.items() if k != name})

        return await self._change(operator_id, sim_id, changed, also_terminated=True)

    async def update_speed_class(self, operator_id: str, sim_id: str, speed_class: str) -> Sim:
        """Another speed class, for the sessions that are open too."""
        if speed_class not in SPEEDS_KBPS:
            raise Refused(RequestRefusal.INVALID_FIELD, "speedClass: no such speed class")
        return await self._set(operator_id, sim_id, lambda sim: replace(sim, speed_class=speed_class))

    async def set_imei_lock(self, operator_id: str, sim_id: str, imei: str) -> Sim:
        """Lock the SIM to a device, an empty ``imei`` to the one that it is in now; sessions in others end.

        The last digit of 15 is the check digit, those after 14 of 16 the software's version.
        """
        sim = await self.get(operator_id, sim_id)
        if not imei:
            sessions = await self.sessions_of(sim.sim_id)
            imei = sessions[-1].imei if sessions else ""
            if not imei:
                raise Refused(
                    RequestRefusal.INVALID_FIELD, "imei: required, because the SIM's device is not known"
                )
        if not (imei.isascii() and imei.isdigit() and len(imei) in IMEI_DIGITS):
            raise Refused(RequestRefusal.INVALID_FIELD, "imei: must be 14 to 16 digits")
        return await self._set(operator_id, sim_id, lambda sim: replace(sim, imei_lock=imei))

    async def unset_imei_lock(self, operator_id: str, sim_id: str) -> Sim:
        """Let the SIM be in any device."""
        return await self._set(operator_id, sim_id, lambda sim: replace(sim, imei_lock=""))

    async def set_static_address(self, operator_id: str, sim_id: str, address: IPv4Address) -> Sim:
        """Give the SIM a static address that no other SIM has, from its next session on."""
        pool = self._static_pool
        if pool is None or address not in pool or address in (pool[0], pool[-1]):
            raise Refused(
                RequestRefusal.INVALID_FIELD,
                f"ipAddress: must be in the pool of static addresses ({pool or 'none'})",
            )

        def changed(sim: Sim) -> Sim:
            return replace(sim, static_address=address)

        await self.get(operator_id, sim_id)
        if await self._store.sims.sim_id_of_static_address(address) not in (None, sim_id):
            raise Refused(RequestRefusal.ALREADY_EXISTS, "ipAddress: already assigned to another SIM.")
        return await self._change(operator_id, sim_id, changed)

    async def remove_static_address(self, operator_id: str, sim_id: str) -> Sim:
        """Take it away, from the SIM's next session on."""

        def changed(sim: Sim) -> Sim:
            if sim.static_address is None:
                raise Refused(RequestRefusal.NOT_FOUND, "No such entry found.")
            return replace(sim, static_address=None)

        return await self._change(operator_id, sim_id, changed)

    async def delete_session(self, operator_id: str, sim_id: str) -> Sim:
        """End the SIM's sessions; the device may come back at once."""
        sim = await self.get(operator_id, sim_id)
        if not await self._control.end_sessions_of(sim_id, CloseReason.REACTIVATE):
            raise Refused(RequestRefusal.SIM_OFFLINE, "The specified subscriber is offline")
        return sim

    # -- small parts ----------------------------------------------------------------------------------

    async def _set(self, operator_id: str, sim_id: str, change: Callable[[Sim], Sim]) -> Sim:
        """Change what open sessions go by, and let them."""
        sim = await self._change(operator_id, sim_id, change)
        await self._control.refresh_sessions_of(sim_id)
        return sim

    async def _change(
        self, operator_id: str, sim_id: str, change: Callable[[Sim], Sim], *, also_terminated: bool = False
    ) -> Sim:
        """Read, change, and write unless it was written meanwhile; what changes nothing is not written."""
        for _ in range(CHANGE_TRIES_MAX):
            sim = await self.get(operator_id, sim_id)
            wanted = change(sim)
            if wanted == sim:
                return sim
            if TRANSITIONS[sim.status] == {} and not also_terminated:
                raise Refused(RequestRefusal.INVALID_TRANSITION, f"The SIM is {sim.status.value}.")
            try:
                return await self._store.sims.put(replace(wanted, modified=self._clock.now()))
            except StaleVersion:
                continue
        raise Unavailable(f"SIM {sim_id}: concurrent updates; try again")

    async def _check_group(self, operator_id: str, group_id: str) -> None:
        if group_id and await self._store.groups.get(operator_id, group_id) is None:
            raise Refused(RequestRefusal.NOT_FOUND, "No such group found.")

    def _digits(self, length: int) -> str:
        number = int.from_bytes(self._entropy.random_bytes(16), "big")
        return str(number % 10**length).zfill(length)


def _no_such_sim() -> Refused:
    return Refused(RequestRefusal.NOT_FOUND, "No such SIM found.")


def _not_to_register() -> Refused:
    return Refused(RequestRefusal.NOT_FOUND, "No SIM in stock has this id and registration secret.")


def _fits(secret: str, sim: Sim) -> bool:
    digest = hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
    return hmac.compare_digest(digest, sim.registration_secret_sha256)


def _next_status(sim: Sim, event: SimEvent) -> SimStatus:
    try:
        return TRANSITIONS[sim.status][event][0]
    except KeyError:
        detail = f"{event.value} is not possible while the SIM is {sim.status.value}."
        raise Refused(RequestRefusal.INVALID_TRANSITION, detail) from None


def _with_check_digit(digits: str) -> str:
    """The Luhn digit at the end (ISO/IEC 7812-1 annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * 2 if place % 2 == 0 else int(digit)
        total += doubled - 9 if doubled > 9 else doubled
    return f"{digits}{-total % 10}"
