"""Session events into the stream, of a whole node in virtual time: late, again, in order, in nobody's way."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from loadtest.faults import FaultRates
from loadtest.peers.gtp import PdpContext
from loadtest.peers.sgsn import Sgsn
from loadtest.virtual import run_virtual
from loadtest.world import APN, Plan, World

AWAY = FaultRates(before=1.0)


class Stage(World):
    """A node, one SIM and one SGSN."""

    sgsn: Sgsn

    async def attach(self) -> PdpContext:
        return await self.sgsn.attach(imsi=self.sims[0].imsi, apn=APN)

    def told(self) -> list[str]:
        """What the stream has of sessions, in order, by record id once."""
        seen: dict[str, str] = {}
        for shard in self.stream_disk.shards:
            for record in shard:
                envelope = json.loads(record.data)
                seen.setdefault(envelope["recordId"], envelope["sessionEvent"]["event"])
        return list(seen.values())


def played(script: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            stage = Stage(0, Plan(sims=1))
            await stage.start_node()
            await stage._make_sims()
            peer = stage._peer(Sgsn, "127.0.1.1")
            assert isinstance(peer, Sgsn)
            stage.sgsn = peer
            async with peer.running():
                await script(stage)
            await stage.finish()

        run_virtual(main)

    test.__name__ = script.__name__
    return test


@played
async def test_a_session_is_told_from_its_beginning_to_its_end(stage: Stage) -> None:
    context = await stage.attach()
    await stage.sgsn.detach(context)
    await asyncio.sleep(1)
    assert stage.told() == ["Created", "Deleted"]
    assert stage.node.held["vg-1"].relay.told == 2


@played
async def test_a_stream_that_is_away_refuses_nobody_and_is_told_later(stage: Stage) -> None:
    stage._set_faults(FaultRates(), AWAY)
    for _ in range(20):
        await stage.sgsn.detach(await stage.attach())
    assert stage.told() == []
    await asyncio.sleep(120)
    stage._set_faults(FaultRates(), FaultRates())
    await asyncio.sleep(10)
    assert stage.told() == ["Created", "Deleted"] * 20


@played
async def test_what_was_not_told_before_a_kill_is_told_after_it(stage: Stage) -> None:
    stage._set_faults(FaultRates(), AWAY)
    await stage.attach()
    await stage.crash()
    stage._set_faults(FaultRates(), FaultRates())
    await stage.start_node()
    await asyncio.sleep(10)
    assert stage.told() == ["Created"]


@played
async def test_what_was_stored_unheard_is_told_again_under_the_same_id(stage: Stage) -> None:
    stage._set_faults(FaultRates(), FaultRates(after=1.0))
    await stage.attach()
    await asyncio.sleep(3)
    stage._set_faults(FaultRates(), FaultRates())
    await asyncio.sleep(10)
    assert stage.told() == ["Created"]
    assert sum(map(len, stage.stream_disk.shards)) > 1
