"""Bringing SIMs in: rows of what a maker delivered become SIMs in stock, or at once an operator's.

Rules: a row that was brought in already changes nothing, one that contradicts what is there is refused and
named, and neither keeps the others; of a secret only a digest is kept.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from core.domain.sim import TRANSITIONS, Sim, SimEvent, SimStatus, Subscriber
from core.domain.stock import StockRow, problems_of
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.clock import Clock
from core.ports.store import Store
from core.services.running.audit import AuditTrail

ROWS_MAX = 1_000
"""Rows of one call."""


class Outcome(Enum):
    """What became of a row."""

    IMPORTED = "imported"
    REGISTERED = "registered"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """``why`` says for whom mends the file what is wrong with a row that is refused."""

    outcome: Outcome
    why: str = ""


class Stock:
    """Brings rows in, many at a time."""

    def __init__(self, *, store: Store, clock: Clock, audit: AuditTrail) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit

    async def bring_in(self, rows: Sequence[StockRow]) -> Sequence[RowOutcome]:
        """What became of each, in their order; at most ``ROWS_MAX``. Raises ``Unavailable``."""
        if len(rows) > ROWS_MAX:
            raise ValueError(f"rows: at most {ROWS_MAX}")
        known = await self._open_operators_among({row.operator_id for row in rows if row.operator_id})
        found = await self._store.sims.get_many([row.iccid or "-" for row in rows])
        outcomes: list[RowOutcome | None] = [
            _refused(row, known) or _judged(row, sim) for row, sim in zip(rows, found, strict=True)
        ]
        for number, outcome in enumerate(outcomes):
            sim = found[number]
            if outcome is None and sim is not None:
                outcomes[number] = await self._register(rows[number], sim)
        new = [number for number, outcome in enumerate(outcomes) if outcome is None]
        stored = await self._store.sims.put_new([self._sim_of(rows[number]) for number in new])
        for number, sim in zip(new, stored, strict=True):
            why = "" if sim is not None else "imsi: used by another SIM, or by two rows"
            outcomes[number] = RowOutcome(Outcome.REFUSED if why else Outcome.IMPORTED, why)
        brought = Counter(
            row.operator_id
            for row, became in zip(rows, outcomes, strict=True)
            if became is not None and became.outcome in (Outcome.IMPORTED, Outcome.REGISTERED)
        )
        for operator_id, count in brought.items():
            await self._audit.sims_imported(operator_id, count)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _open_operators_among(self, wanted: set[str]) -> set[str]:
        found = [await self._store.accounts.operator(operator_id) for operator_id in sorted(wanted)]
        return {each.operator_id for each in found if each is not None and each.closed is None}

    async def _register(self, row: StockRow, sim: Sim) -> RowOutcome:
        """A SIM that is in stock becomes the operator's that the row names."""
        status, now = TRANSITIONS[sim.status][SimEvent.REGISTER][0], self._clock.now()
        try:
            await self._store.sims.put(replace(sim, operator_id=row.operator_id, status=status, modified=now))
        except StaleVersion:
            return RowOutcome(Outcome.REFUSED, "iccid: concurrent update of the SIM; import it again")
        return RowOutcome(Outcome.REGISTERED)

    def _sim_of(self, row: StockRow) -> Sim:
        now, is_owned = self._clock.now(), bool(row.operator_id)
        return Sim(
            sim_id=row.iccid,
            subscribers=(Subscriber(row.imsi, row.msisdn, row.subscription),),
            registration_secret_sha256=_digest_of(row),
            created=now,
            modified=now,
            operator_id=row.operator_id,
            status=TRANSITIONS[SimStatus.INSTOCK][SimEvent.REGISTER][0] if is_owned else SimStatus.INSTOCK,
            speed_class=row.speed_class,
            module_type=row.module_type,
            serial_number=row.iccid,
        )


def _refused(row: StockRow, known: set[str]) -> RowOutcome | None:
    problems = list(problems_of(row))
    if row.operator_id and row.operator_id not in known:
        problems.append(f"operator_id: no open operator {row.operator_id[:40]!r}")
    return RowOutcome(Outcome.REFUSED, "; ".join(problems)) if problems else None


def _judged(row: StockRow, sim: Sim | None) -> RowOutcome | None:
    """Outcome for a SIM that exists already; ``None``: the row changes it. A SIM that has an owner keeps the
    speed class that the owner chose.
    """
    if sim is None:
        return None
    subscriber = sim.subscribers[0]
    there = {
        "imsi": subscriber.imsi == row.imsi,
        "msisdn": subscriber.msisdn == row.msisdn,
        "subscription": subscriber.subscription == row.subscription,
        "module_type": sim.module_type == row.module_type,
        "speed_class": sim.operator_id != "" or sim.speed_class == row.speed_class,
        "registration_secret": sim.registration_secret_sha256 == _digest_of(row),
        "operator_id": not row.operator_id or sim.operator_id in ("", row.operator_id),
    }
    if differing := [name for name, is_same in there.items() if not is_same]:
        return RowOutcome(Outcome.REFUSED, f"iccid: already imported with a different {', '.join(differing)}")
    if row.operator_id and not sim.operator_id:
        return None
    return RowOutcome(Outcome.UNCHANGED)


def _digest_of(row: StockRow) -> str:
    """No digest when there is no secret: nothing registers the SIM then."""
    secret = row.registration_secret
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""
