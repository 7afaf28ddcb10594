"""What must always hold (docs/ARCHITECTURE.md), checked after a run.

Rule: a check says what it found, in words; it never repairs and never guesses.
"""

import asyncio
import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import sha256
from math import floor

from airloom.app.node import Node
from billing.service import BillingService
from core.adapters.object_store.files import MemoryObjectStore
from core.domain.billing import Tariff
from core.domain.session import Session, SessionEventKind
from core.domain.usage import UsageReport, Volume, day_of, roll_up
from loadtest.outcome import is_subsequence, payloads_by_imsi, quantity_of_csv
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import run_virtual
from loadtest.simulation.world import OPERATOR, World

EPOCH_OF_NASES = 0
"""Octets counted by a NAS: its last, unanswered report may or may not be included."""
FIRST_DAY = 20261130
"""On which a run begins, to end on the next."""
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def simulate(seed: int, plan: Plan | None = None, node_type: type[Node] = Node) -> World:
    """Run one seed to its end and look at what is left; ``findings`` is empty when all holds."""
    world = World(seed, plan, node_type)

    async def main() -> None:
        run = asyncio.create_task(world.run())
        await asyncio.wait([run])
        if not run.cancelled():
            run.result()
            await check_world(world)
            await world.finish()

    run_virtual(main)
    return world


async def check_world(world: World) -> None:
    """Add to ``world.findings`` whatever does not hold."""
    await _check_bytes(world)
    await _check_sessions(world)
    await _check_bill(world)
    await _check_rolled_up(world)
    _check_messages(world)
    await _check_counts(world)
    await _check_events(world)
    await _check_leaks(world)


async def _check_bytes(world: World) -> None:
    """Octets at the sink = metered, SIM by SIM and direction by direction."""
    for state in world.sims:
        metered = await metered_volume(world, state.imsi)
        low, high = _seen(world, state.imsi)
        for name, counted, least, most in (
            ("up", metered.up_bytes, low.up_bytes, high.up_bytes),
            ("down", metered.down_bytes, low.down_bytes, high.down_bytes),
        ):
            if not least <= counted <= most:
                world.findings.append(f"{state.imsi} {name}: metered {counted}, seen {least} to {most}")


async def _check_sessions(world: World) -> None:
    """The same for each session that a gateway counts."""
    metered: Counter[tuple[str, str]] = Counter()
    for day in _days(world):
        for state in world.sims:
            rows = await world.node._world.store.usage.of_day(state.imsi, day)
            for (session_id, epoch, _), volume in last_values(rows).items():
                if epoch != EPOCH_OF_NASES:
                    metered[session_id, "up"] += volume.up_bytes
                    metered[session_id, "down"] += volume.down_bytes
    for key in sorted(metered.keys() | world.of_session.keys()):
        if metered[key] != world.of_session[key]:
            session_id, direction = key
            world.findings.append(
                f"session {session_id} {direction}: metered {metered[key]}, seen {world.of_session[key]}"
            )


def _seen(world: World, imsi: str) -> tuple[Volume, Volume]:
    """The least and most octets of an IMSI that the far side saw: a NAS that loses power no longer knows
    whether its last, unanswered report was recorded.
    """
    seen = Volume(world.up_bytes[imsi], world.down_bytes[imsi])
    of_nas = [session for session in world.nas_sessions if session.imsi == imsi]
    least = sum((Volume(s.acknowledged_up, s.acknowledged_down) for s in of_nas), seen)
    return least, sum((Volume(s.told_up, s.told_down) for s in of_nas), seen)


async def _check_bill(world: World) -> None:
    """Billed = octets at the sink, over both months of the run, to the cent, and the same on every run."""
    adapters, tariff, billed = world.node._world, Tariff(), 0

    def billing() -> BillingService:
        return BillingService(
            usage=adapters.store.usage,
            bills=adapters.store.bills,
            objects=MemoryObjectStore(),
            clock=world.clock,
            configured=tariff,
        )

    for month in (202611, 202612):
        bill = await billing().bill(OPERATOR, month)
        content, again = [await exported(billing(), month) for _ in range(2)]
        if sha256(content).digest() != sha256(again).digest():
            world.findings.append(f"{month}: exported again it is another file")
        if await billing().statement(OPERATOR, month) != await billing().statement(OPERATOR, month):
            world.findings.append(f"{month}: rated again it is another bill")
        if bill.quantity_bytes != quantity_of_csv(content):
            world.findings.append(f"{month}: the bill says {bill.quantity_bytes}, its file does not")
        cents = cents_of(quantity_of_csv(content), tariff.nano_per_byte)
        if not bill.amount.minor_units == cents == cents_of_csv(content):
            world.findings.append(f"{month}: the bill says {bill.amount.minor_units} cents, its lines do not")
        billed += bill.quantity_bytes
    for day in _days(world):
        for item in await adapters.store.usage.quarantined(day):
            world.findings.append(f"{item.report.imsi}: quarantined: {item.why}")
    seen = [_seen(world, state.imsi) for state in world.sims]
    least, most = (sum(bound.total_bytes for bound in bounds) for bounds in zip(*seen, strict=True))
    if not least <= billed <= most:
        world.findings.append(f"billed {billed}, the far side saw {least} to {most}")


async def exported(billing: BillingService, month: int) -> bytes:
    """The month's file."""
    content = await billing._objects.get(await billing.export(OPERATOR, month))
    assert content is not None, "it was just written"
    return content


def _days(world: World) -> list[int]:
    """The days of the run, yyyymmdd; the nodes' clocks may have been an hour off."""
    first = world.clock.now() - timedelta(seconds=world.clock.monotonic())
    return [day_of(first + timedelta(days=n)) for n in range((world.clock.now() - first).days + 2)]


async def _check_rolled_up(world: World) -> None:
    """The first day of the run was folded, so that its bill was made from folded rows alone.

    They say no more than the slots; they say less where a report was given up before it was acknowledged.
    """
    usage = world.node._world.store.usage
    rollup_progress = await usage.rollup_progress()
    if rollup_progress is None or not rollup_progress.is_whole(FIRST_DAY):
        world.findings.append(f"{FIRST_DAY} was not folded: {rollup_progress}")
    for state in world.sims:
        folded = await usage.of_days(state.imsi, [FIRST_DAY])
        slots = roll_up(await usage.of_day(state.imsi, FIRST_DAY))[0]
        if roll_up([*slots, *folded])[0] != slots:
            world.findings.append(f"{state.imsi}: {folded} was folded, {slots} were stored")


async def metered_volume(world: World, imsi: str) -> Volume:
    """What the store holds for an IMSI over the days of the run."""
    usage = world.node._world.store.usage
    return sum([day_total(await usage.of_day(imsi, day)) for day in _days(world)], Volume())


def day_total(rows: Sequence[UsageReport]) -> Volume:
    """The sum over (session, epoch, segment) of the last value, by the timestamp of the gateway."""
    return sum(last_values(rows).values(), Volume())


def last_values(rows: Sequence[UsageReport]) -> dict[tuple[str, int, int], Volume]:
    """The last value of each (session, epoch, segment), by the timestamp of the gateway."""
    last: dict[tuple[str, int, int], UsageReport] = {}
    for row in rows:
        key = (row.session_id, row.epoch, row.segment)
        if key not in last or last[key].timestamp_us < row.timestamp_us:
            last[key] = row
    return {key: row.volume for key, row in last.items()}


def _check_messages(world: World) -> None:
    """Acknowledged = in the stream; a SIM's records stand in the order in which its packets came."""
    records = [record for shard in world.stream_disk.shards for record in shard]
    stored = payloads_by_imsi(records)
    for state in world.sims:
        in_stream = stored.get(state.imsi, [])
        lost = set(state.acknowledged) - set(in_stream)
        if lost:
            world.findings.append(f"{state.imsi}: acknowledged and not in the stream: {sorted(lost)}")
        if not is_subsequence(in_stream, world.arrived.get(state.imsi, [])):
            world.findings.append(f"{state.imsi}: records are out of order")


async def _check_counts(world: World) -> None:
    """The meter of messages counted each record of the stream once."""
    stored = payloads_by_imsi([record for shard in world.stream_disk.shards for record in shard])
    for state in world.sims:
        counted = 0
        for day in _days(world):
            row = await world.node._world.store.message_counts.get(state.imsi, day)
            counted += row.count if row is not None else 0
        if counted != len(stored.get(state.imsi, [])):
            in_stream = len(stored.get(state.imsi, []))
            world.findings.append(f"{state.imsi}: counted {counted} messages, {in_stream} are in the stream")


async def _check_events(world: World) -> None:
    """The events in a SIM's history are in the stream too, in the same order."""
    told: dict[str, list[str]] = {}
    for shard in world.stream_disk.shards:
        for record in shard:
            envelope = json.loads(record.data)
            of_sim = told.setdefault(envelope["simId"], [])
            if "sessionEvent" in envelope and envelope["recordId"] not in of_sim:
                of_sim.append(envelope["recordId"])
    sessions = world.node._world.store.sessions
    for state in world.sims:
        sim_id, after, history = state.sim.sim_id, "", []
        while True:
            until = world.clock.now() + timedelta(hours=1)
            page = await sessions.events(sim_id, since=BEGINNING, until=until, after=after)
            history += [e.event_id for e in page.items if e.kind is not SessionEventKind.REJECTED]
            if not (after := page.next_key):
                break
        missing = set(history) - set(told.get(sim_id, ()))
        if missing:
            world.findings.append(
                f"{state.imsi}: {len(missing)} events of sessions never came into the stream"
            )
    if left := await sessions.outbox("vg-1", limit=10):
        world.findings.append(f"{len(left)} events are left in the outbox")


def cents_of(octets: int, nano_per_byte: int) -> int:
    """What octets cost, half up, in fractions: no code of the bill's is used."""
    return floor(Fraction(octets * nano_per_byte, 10**7) + Fraction(1, 2))


def cents_of_csv(content: bytes) -> int:
    """The amounts of a file added up, exactly, and rounded once."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    return floor(sum((Fraction(row["amount"]) for row in rows), Fraction()) * 100 + Fraction(1, 2))


async def _check_leaks(world: World) -> None:
    """All sessions have ended: nothing is allocated, held, counted or open."""
    held = await world.holding()
    found = [f async for f in world.node._world.store.sessions.of_gateway("vg-1")]
    leaks = {
        **held.gateway.allocated,
        "open sessions": len(held.sessions.open_sessions),
        "unfinished sessions": len(held.sessions.common.unfinished),
        "stored sessions": sum(isinstance(each, Session) for each in found),
        "contexts": held.gtp.endpoint.contexts,
        "slots": len(list(held.user_plane.all_counters())),
        "sessions at NASes": held.radius.held,
        "reservations": held.radius.reserved,
        "locks": len(held.sessions.common.locks),
    }
    for what, count in leaks.items():
        if count:
            world.findings.append(f"{count} {what} leaked")
    owners = (await world.node._world.store.blocks.read()).owners
    allocated_from = {
        network for each in (held.blocks, *held.apn_address_blocks) for network in each.allocated_from
    }
    if {block.network for block in owners} != allocated_from:
        world.findings.append(f"blocks {sorted(owners)} are owned, {sorted(allocated_from)} allocated from")
