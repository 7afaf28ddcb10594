"""A store with as many SIMs and open sessions as a benchmark needs, written directly into its engine.

Rules: the rows are those that the repositories write, but the outbox is empty. The first SIMs have a session,
the others are free to attach; all values of a SIM follow from its number.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address

from core.adapters.store.engine import Batch, Engine, Put, microseconds
from core.adapters.store.rows import body_of
from core.adapters.store.sessions import BUCKETS
from core.adapters.store.sims import SIM_ROW
from core.adapters.store.tables import SESSION_BY_GATEWAY, SIM, SIM_BY_IMSI
from core.domain.session import Access, Location, Qos, Session, Tunnel
from core.domain.sim import Sim, SimStatus, Subscriber
from core.domain.speed import granted
from core.domain.values import replace

GATEWAY_ID = "vg-1"
APN = "internet"
OPERATOR_ID = "OP0000000001"
SPEED_CLASS = "s1.8xfast"
FIRST_ADDRESS = int(IPv4Address("10.128.0.0"))
BLOCK, NEVER_ALLOCATED = 1_024, 3
CHUNK = 500
CHUNKS_AT_ONCE = 8
_TEID_STEP = 0x9E3779B1
"""Odd, so that no two numbers have the same TEID."""


def imsi_of(number: int, plmn: str = "00101") -> str:
    """A SIM's IMSI."""
    return f"{plmn}{number:010d}"


async def seed(engine: Engine, *, sims: int, sessions: int, peer: str, plmn: str = "00101") -> None:
    """Write the SIMs 0 to ``sims``, and sessions behind ``peer`` of the first ``sessions`` of them."""
    now = datetime.now(UTC)
    no_sim = Sim(
        *("", (), "00" * 32, now, now),
        operator_id=OPERATOR_ID,
        status=SimStatus.ACTIVE,
        speed_class=SPEED_CLASS,
        version=1,
    )
    chunks = iter(range(0, sims, CHUNK))

    async def write_chunks() -> None:
        for first in chunks:
            numbers = range(first, min(first + CHUNK, sims))
            batches = [each for number in numbers for each in _sim_rows(no_sim, number, plmn)]
            held = [number for number in numbers if number < sessions]
            await engine.write_all([*batches, *_session_rows(held, now, peer)])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CHUNKS_AT_ONCE):
            tasks.create_task(write_chunks())


def _sim_rows(no_sim: Sim, number: int, plmn: str) -> Iterator[Batch]:
    sim = replace(no_sim, sim_id=_sim_id(number), subscribers=(Subscriber(imsi_of(number, plmn)),))
    yield Batch(SIM_BY_IMSI, (sim.imsi,), (Put((), (sim.sim_id, microseconds(sim.created)), 1),))
    yield Batch(SIM, (sim.sim_id,), (Put(SIM_ROW, (body_of(sim),), sim.version),))


def _session_rows(numbers: Sequence[int], now: datetime, peer: str) -> Iterator[Batch]:
    for number in numbers:
        session = session_of(number, now, peer)
        control, user = session.teids
        values = (session.sim_id, microseconds(now), str(session.ue_address), control, user)
        put = Put((session.session_id,), values)
        yield Batch(SESSION_BY_GATEWAY, (GATEWAY_ID, number % BUCKETS), (put,))
        row = Put(("session", session.session_id), (body_of(session),), session.version)
        yield Batch(SIM, (session.sim_id,), (row,))


def session_of(number: int, now: datetime, peer: str) -> Session:
    """As a Create PDP Context Request of this peer would have made it."""
    control, user = ((2 * number + end) * _TEID_STEP & 0xFFFFFFFF for end in (1, 2))
    block, place = divmod(number, BLOCK - NEVER_ALLOCATED)
    return Session(
        session_id=f"{int(now.timestamp() * 1_000):012x}{number:020x}",
        sim_id=_sim_id(number),
        imsi=imsi_of(number),
        operator_id=OPERATOR_ID,
        access=Access.GTPV1,
        apn=APN,
        ue_address=IPv4Address(FIRST_ADDRESS + block * BLOCK + 2 + place),
        gateway_id=GATEWAY_ID,
        opened=now,
        speed_class=SPEED_CLASS,
        msisdn=f"8190{number:08d}",
        location=Location("44010", "LTE", "0144f00112345678"),
        dns=("100.127.0.53", "100.127.1.53"),
        tunnel=Tunnel(control, user, number + 1, number + 1, peer, peer, 5, user),
        qos=granted(Qos(), SPEED_CLASS, up_kbps=0, down_kbps=0),
        version=1,
    )


def _sim_id(number: int) -> str:
    return f"89810000{number:011d}"
