"""A whole node in virtual time while one thing goes wrong: its clock jumps, its store takes five seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise

import pytest

from airloom.app.gateway_runtime import GatewayRuntime
from core.domain.session import Access
from core.domain.usage import UsageReport
from core.ports.user_plane import Counters, Segment
from core.services.metering.usage import UsageMeter
from gtp import endpoint
from gtp.admission import PART_OF_ONE
from gtp.endpoint import SHED_AFTER_S, Limits
from gtp.v1.cause import Cause
from loadtest.peers.gtp import PdpContext, Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.simulation.checks import check_world
from loadtest.simulation.faults import FaultRates
from loadtest.simulation.plan import QUIET_S, Plan
from loadtest.simulation.running import SimState
from loadtest.simulation.virtual import SeededEntropy, run_virtual
from loadtest.simulation.world import APN, GATEWAY, World
from tests.simulation.test_world import holding

SLOW = FaultRates(delay_s=5.0)
FAST = FaultRates()


class WatchedMeter(UsageMeter):
    """Keeps what it reports."""

    kept: list[UsageReport]

    def _to_report(self, counters: Counters, segment: Segment) -> UsageReport:
        report = super()._to_report(counters, segment)
        self.kept.append(report)
        return report


class WatchedGateway(GatewayRuntime):
    def make_usage_meter(self) -> UsageMeter:
        meter = super().make_usage_meter()
        meter.__class__ = WatchedMeter
        meter.kept = []  # type: ignore[attr-defined] # its class was just changed
        return meter


class Stage(World):
    """A node, its SIMs and one SGSN as patient as the specification has it."""

    sgsn: Sgsn

    async def attach(self, state: SimState) -> PdpContext:
        context = await self.sgsn.attach(imsi=state.imsi, apn=APN)
        self.owner_of[context.ue_address] = state.imsi
        state.context, state.peer = context, self.sgsn
        state.device = self._device(state, context)
        return context

    async def talk(self) -> None:
        for state in self.sims:
            await self._talk(state)

    async def go_home_and_check(self) -> None:
        """Everything that must always hold."""
        for state in self.sims:
            await self._detach(state)
        await asyncio.sleep(QUIET_S)
        await (await self.holding()).usage.sweep()
        await check_world(self)
        assert self.findings == []


def play(script: Callable[[Stage], Awaitable[None]], *, sims: int, held: type[GatewayRuntime]) -> None:
    async def main() -> None:
        stage = Stage(1, Plan(sims=sims), holding(held))
        await stage._begin_rollup()
        await stage.start_node()
        await stage._make_sims()
        stage.sgsn = Sgsn(
            network=stage.network,
            address="127.0.1.1",
            gateway=GATEWAY,
            entropy=SeededEntropy(stage.rng),
            t3_s=5.0,
        )
        async with stage.sgsn.running():
            await script(stage)
        await stage.finish()

    run_virtual(main)


@pytest.mark.parametrize("jumps", [(3_600, 0), (-3_600, 0), (3_600, -3_600), (-3_600, 3_600, 0)])
def test_a_clock_that_jumps_ends_nothing_and_counts_nothing_twice(jumps: tuple[int, ...]) -> None:
    """Over the ends of slots, of a day and of a month."""

    async def script(stage: Stage) -> None:
        held = await stage.holding()
        for state in stage.sims:
            await stage.attach(state)
        granted = set(held.sessions.open_sessions)
        for skew_s in (0, *jumps):
            stage.node_clock.skew = timedelta(seconds=skew_s)
            for _ in range(40):
                await stage.talk()
                await asyncio.sleep(9)
        assert set(held.sessions.open_sessions) == granted
        assert (await stage.holding()) is held
        assert held.gateway.epoch == 1
        kept = held.usage.kept  # type: ignore[attr-defined] # the watched meter's
        for session_id in granted:
            of_session = [report for report in kept if report.session_id == session_id]
            stamps = sorted({report.timestamp_us for report in of_session})
            assert len(stamps) > 50
            for earlier, later in pairwise(of_session):
                assert later.timestamp_us >= earlier.timestamp_us
                if (later.segment, later.day) == (earlier.segment, earlier.day):
                    assert later.slot >= earlier.slot
                    assert later.volume.up_bytes >= earlier.volume.up_bytes
        await stage.go_home_and_check()

    play(script, sims=3, held=WatchedGateway)


def test_a_store_of_five_seconds_sheds_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are refused with no resources: at once if too many wait, otherwise in time."""
    room, sims = 8, 24
    monkeypatch.setattr(endpoint, "Limits", lambda: Limits(deciding=room))

    async def script(stage: Stage) -> None:
        held = await stage.holding()
        version = held.gtp.endpoint.versions[Access.GTPV1]
        attached, asking = stage.sims[:4], stage.sims[4:]
        for state in attached:
            await stage.attach(state)
        refused_after_s, waiting = list[float](), [0]

        async def ask(state: SimState) -> None:
            began = stage.clock.monotonic()
            with pytest.raises(Refusal) as refusal:
                await stage.attach(state)
            assert refusal.value.cause == Cause.NO_RESOURCES_AVAILABLE
            refused_after_s.append(stage.clock.monotonic() - began)

        async def talk_and_look() -> None:
            while True:
                waiting.append(version.waiting)
                await stage.talk()
                await asyncio.sleep(0.5)

        stage._set_faults(SLOW, FAST)
        looking = asyncio.create_task(talk_and_look())
        await asyncio.gather(*(ask(state) for state in asking))
        looking.cancel()
        at_once = [after_s for after_s in refused_after_s if after_s < 0.1]
        decided = round(room * PART_OF_ONE)  # for they all come from one SGSN
        assert len(at_once) == len(asking) - decided
        assert max(refused_after_s) < SHED_AFTER_S + 0.1
        assert max(waiting) == decided
        assert held.gateway.epoch == 1, "the lease was renewed all the while"
        stage._set_faults(FAST, FAST)
        await asyncio.sleep(60)
        assert version.waiting == 0
        assert len(held.sessions.open_sessions) == len(attached), "what came too late was ended"
        for state in asking:
            await stage.attach(state)
        await stage.talk()
        assert all(state.acknowledged for state in stage.sims)
        await stage.go_home_and_check()

    play(script, sims=sims, held=GatewayRuntime)
