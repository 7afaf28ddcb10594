"""The whole by seed: what must always hold holds; the same seed is the same run; planted bugs are caught."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from airloom.app.gateway_runtime import GatewayRuntime
from airloom.app.node import Node
from core.adapters.store.usage import UsageDays, WideUsage
from core.domain.consumer import ShardLease
from core.domain.message import MessageCount, StreamRecord
from core.domain.requests import PeerTunnel
from core.domain.session import Session, SessionEvent, Tunnel
from core.domain.usage import UsageReport, Volume, roll_up
from core.domain.values import replace
from core.errors import Unavailable
from core.ports.stream import StoredRecord
from core.ports.user_plane import Counters, Segment
from core.services.metering.message_meter import MessageMeter
from core.services.metering.usage import UsageMeter
from core.services.running.undo import Undo
from core.services.sessions.nas_accounting import Ceiling, NasAccounting
from core.services.sessions.open import SessionOpener
from core.services.sessions.service import Sessions
from core.services.streaming.consumer import Consumer
from core.services.streaming.outbox_relay import OutboxRelay, envelope
from loadtest.simulation.checks import simulate
from loadtest.simulation.plan import Plan
from loadtest.simulation.world import OPERATOR
from mqtt_bridge import inner
from mqtt_bridge.packets import DevicePackets
from mqtt_bridge.service import DeviceEdge

SEEDS = int(os.environ.get("AIRLOOM_SEEDS", "60"))
"""A share of the thousand that `./run prove` goes through."""


@pytest.mark.parametrize("seed", sorted({*range(SEEDS), 63, 243, 370, 646, 806}))
def test_everything_holds(seed: int) -> None:
    world = simulate(seed)
    assert world.findings == []
    assert set(world.attaches) <= {"Sgsn", "Sgw", "Nas"}
    assert sum(world.up_bytes.values()) > 0


@pytest.mark.parametrize("seed", range(SEEDS // 4))
def test_dedicated_bearers_and_changes_leave_nothing(seed: int) -> None:
    world = simulate(seed, Plan(policies=40))
    assert world.findings == []


def test_bearers_are_made_amid_faults() -> None:
    plan = Plan(policies=40)
    assert sum(simulate(seed, plan).bearers_made for seed in range(3)) > 3


def test_every_kind_of_attach_takes_part() -> None:
    kinds = {kind for seed in range(5) for kind in simulate(seed).attaches}
    assert kinds == {"Sgsn", "Sgw", "Nas"}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    first, second = simulate(seed), simulate(seed)
    assert first.network.trace == second.network.trace
    assert first.stream_disk == second.stream_disk
    assert first.network.trace != simulate(seed + 1).network.trace


def test_a_run_does_not_depend_on_its_process() -> None:
    command = [
        sys.executable,
        "-c",
        "from loadtest.simulation.checks import simulate; print(simulate(3).network.trace)",
    ]
    traces = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(traces) == 1
    assert traces.pop().strip()


class IncrementMeter(UsageMeter):
    """Planted: what was counted since the last report, in the place of what was counted in all."""

    def _to_report(self, counters: Counters, segment: Segment) -> UsageReport:
        report = super()._to_report(counters, segment)
        _, last = self._durable.get(counters.session_id, (0, Volume()))
        return replace(report, volume=segment.volume - last)


class HastyPackets(DevicePackets):
    """Planted: the device is answered before the stream accepted its message."""

    def _deliver(self, session: Session, url: str, datagram: inner.UdpDatagram) -> None:
        self._inject(session.session_id, inner.reply_to(datagram, b"200"))
        super()._deliver(session, url, datagram)


class LeakyOpener(SessionOpener):
    """Planted: an attach that fails keeps its TEIDs."""

    def _allocate_teids(self, peer: PeerTunnel | None, undo: Undo) -> Tunnel | None:
        return super()._allocate_teids(peer, Undo())


class AddingUsage(NasAccounting):
    """Planted: a NAS's cumulative counters are added up as if they were increments."""

    async def report(self, session: Session, told: Volume, ceiling: Ceiling) -> bool:
        counted = self._counted.get(session.session_id)
        return await super().report(session, told + counted.total if counted else told, ceiling)


class HastyUsage(NasAccounting):
    """Planted: a NAS is answered before its report is durable."""

    async def report(self, session: Session, told: Volume, ceiling: Ceiling) -> bool:
        with suppress(Unavailable):
            await super().report(session, told, ceiling)
        return True


class HastyConsumer(Consumer):
    """Planted: the checkpoint moves before the effect."""

    async def _take_effect(self, lease: ShardLease, records: Sequence[StoredRecord]) -> None:
        with suppress(Unavailable):
            await super()._take_effect(lease, records)


class ForgetfulMeter(MessageMeter):
    """Planted: where it counted up to is not kept, so what is read again counts again."""

    async def _count_row(self, imsi: str, day: int, of_row: list[Any]) -> int:
        row = await self._counts.get(imsi, day) or MessageCount(imsi, day, OPERATOR)
        await self._counts.put(replace(row, count=row.count + len(of_row)))
        return len(of_row)


class HastyRelay(OutboxRelay):
    """Planted: an event leaves the outbox before the stream has it."""

    async def _relay(self) -> bool:
        events = await self._sessions.outbox(self._gateway_id, limit=1)
        if not events:
            return False
        await self._sessions.sent(self._gateway_id, events)
        with suppress(Unavailable):
            told = [event for event in events if isinstance(event, SessionEvent)]
            await self._stream.put([StreamRecord(event.imsi, envelope(event)) for event in told])
        return True


class HastyRelayGateway(GatewayRuntime):
    def make_relay(self) -> OutboxRelay:
        relay = super().make_relay()
        relay.__class__ = HastyRelay
        return relay


class HastyConsumerNode(Node):
    async def start(self) -> int:
        recovered = await super().start()
        self.consumer.__class__ = HastyConsumer
        return recovered


class ForgetfulMeterNode(Node):
    def make_message_meter(self) -> MessageMeter:
        return ForgetfulMeter(counts=self._world.store.message_counts)


class AddingDays(UsageDays):
    """Planted: what is folded is added to what stands there."""

    async def join(self, imsi: str, day: int, reports: Iterable[UsageReport]) -> None:
        stored = {(row.session_id, row.epoch, row.segment): row for row in await self.read(imsi, day, day)}
        added = [
            replace(row, volume=row.volume + stored[key].volume) if key in stored else row
            for row in roll_up(reports)[0]
            for key in [(row.session_id, row.epoch, row.segment)]
        ]
        await super().join(imsi, day, added)


class AddingDaysNode(Node):
    async def start(self) -> int:
        usage = self._world.store.usage
        assert isinstance(usage, WideUsage)
        usage._days.__class__ = AddingDays
        return await super().start()


class IncrementGateway(GatewayRuntime):
    def make_usage_meter(self) -> UsageMeter:
        return IncrementMeter(
            user_plane=self.user_plane,
            usage=self._world.store.usage,
            clock=self._world.clock,
            interval_s=self._config.usage.report_interval_s,
        )


class HastyNode(Node):
    def make_edge(self) -> DeviceEdge:
        edge = super().make_edge()
        edge.packets.__class__ = HastyPackets
        return edge


class AddingGateway(GatewayRuntime):
    def make_nas_accounting(self) -> NasAccounting:
        usage = super().make_nas_accounting()
        usage.__class__ = AddingUsage
        return usage


class HastyNasGateway(GatewayRuntime):
    def make_nas_accounting(self) -> NasAccounting:
        usage = super().make_nas_accounting()
        usage.__class__ = HastyUsage
        return usage


class LeakyGateway(GatewayRuntime):
    def make_sessions(self) -> Sessions:
        sessions = super().make_sessions()
        sessions.opener.__class__ = LeakyOpener
        return sessions


def holding(held: type[GatewayRuntime]) -> type[Node]:
    """A node whose gateway instance is this one."""
    return type(f"{held.__name__}Node", (Node,), {"held_type": held})


@pytest.mark.parametrize(
    ("node_type", "caught_as"),
    [
        (holding(IncrementGateway), "the far side saw"),
        (holding(AddingGateway), "the far side saw"),
        (holding(HastyNasGateway), "the far side saw"),
        (AddingDaysNode, "the far side saw"),
        (holding(HastyRelayGateway), "never came into the stream"),
        (HastyConsumerNode, "are in the stream"),
        (ForgetfulMeterNode, "are in the stream"),
        (HastyNode, "acknowledged and not in the stream"),
        (holding(LeakyGateway), "teids leaked"),
    ],
)
def test_a_planted_bug_is_caught(node_type: type[Node], caught_as: str) -> None:
    for seed in range(40):
        if any(caught_as in finding for finding in simulate(seed, node_type=node_type).findings):
            return
    pytest.fail(f"no seed caught {node_type.__name__}")


def test_a_late_report_whose_day_is_not_rolled_up_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: WideUsage, __: Iterable[tuple[str, int]]) -> None:
        pass

    monkeypatch.setattr(WideUsage, "_roll_up_late", nothing)
    for seed in range(20):
        if any("the far side saw" in finding for finding in simulate(seed).findings):
            return
    pytest.fail("no seed caught it")
