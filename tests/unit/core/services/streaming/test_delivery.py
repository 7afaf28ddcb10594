"""Delivery: the envelope, order, retries, deadlines, and no receipt before the stream accepted."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.domain.message import DeviceMessage, StreamRecord
from core.domain.reasons import RequestRefusal
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.stream import PutResult
from core.services.running.faults import Faults
from core.services.running.ids import RecordIds
from core.services.streaming.delivery import ASIDE_MAX, DEAD_LETTERS, DEADLINE_S, Delivery, Outcome, Receipt
from core.services.streaming.keyed_queues import KEY_RECORDS_MAX, KeyedQueues
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, run_virtual

AT = datetime(2026, 11, 30, 12, 0, 0, 123_456, tzinfo=UTC)


def message(imsi: str = "440101234567890", payload: bytes = b"hello") -> DeviceMessage:
    return DeviceMessage(
        session_id="s1",
        sim_id="8981100005819480000",
        imsi=imsi,
        imei="359206054480390",
        operator_id="OP0012345678",
        source_protocol="udp",
        entry_point_url="udp://100.127.65.43:23080",
        payload=payload,
        received=AT,
    )


class FaultyStream(MemoryStream):
    """Fails by its settings: per record, as a whole, after storing, or by waiting."""

    keeps_order = False

    def __init__(self, disk: MemoryDisk, clock: Clock, seed: int = 0) -> None:
        super().__init__(disk=disk, clock=clock, latency_s=0.01)
        self._rng = random.Random(seed)
        self.record_failure = 0.0
        self.call_failure = 0.0
        self.failure_after_storing = 0.0
        self.poison = b""
        """A record with this in it is never taken."""
        self.is_flowing = asyncio.Event()
        self.is_flowing.set()
        self.under_way = 0
        self.under_way_max = 0
        self.calls = 0

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        self.calls += 1
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            return await self._put(records)
        finally:
            self.under_way -= 1

    async def _put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        await self.is_flowing.wait()
        await asyncio.sleep(self._rng.random() * 0.1)
        if self._rng.random() < self.call_failure:
            raise Unavailable("away")
        if self.poison and any(self.poison in record.data for record in records):
            return [PutResult(error="ValidationException", is_poison=True)] * len(records)
        results: list[PutResult] = [PutResult(error="InternalFailure")] * len(records)
        good = [n for n in range(len(records)) if self._rng.random() >= self.record_failure]
        if good:
            stored = await super().put([records[n] for n in good])
            for n, result in zip(good, stored, strict=True):
                results[n] = result
        if self._rng.random() < self.failure_after_storing:
            raise Unavailable("cut after storing", ambiguous=True)
        return results


class World:
    def __init__(
        self,
        *,
        queues: KeyedQueues[object] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.clock = VirtualClock()
        self.disk = MemoryDisk()
        self.stream = FaultyStream(self.disk, self.clock)
        self.delivery = Delivery(
            stream=self.stream,
            clock=self.clock,
            entropy=SeededEntropy(random.Random(1)),
            queues=queues,
            deadline_s=deadline_s,
        )

    @property
    def envelopes(self) -> list[dict[str, object]]:
        return [json.loads(record.data) for shard in self.disk.shards for record in shard]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        pump = asyncio.create_task(self.delivery.run())
        try:
            yield self
        finally:
            pump.cancel()
            with suppress(asyncio.CancelledError):
                await pump


def test_envelope_is_funnels() -> None:
    async def main() -> None:
        async with World().running() as world:
            receipt = await world.delivery.deliver(message(payload=b"\x00\xffhi"))
            (record,) = [record for shard in world.disk.shards for record in shard]
            assert (record.shard_id, record.sequence_number) == (receipt.shard_id, receipt.sequence_number)
            assert record.partition_key == "440101234567890"
            assert json.loads(record.data) == {
                "destination": {
                    "provider": "airloom",
                    "service": "stream",
                    "resourceUrl": "udp://100.127.65.43:23080",
                },
                "imei": "359206054480390",
                "imsi": "440101234567890",
                "operatorId": "OP0012345678",
                "payloads": base64.b64encode(b"\x00\xffhi").decode(),
                "recordId": receipt.record_id,
                "simId": "8981100005819480000",
                "sourceProtocol": "udp",
                "timestamp": 1796040000123,
            }
            canonical = json.dumps(json.loads(record.data), sort_keys=True, separators=(",", ":"))
            assert record.data.decode() == canonical

    run_virtual(main)


def test_an_empty_payload_is_a_message() -> None:
    async def main() -> None:
        async with World().running() as world:
            await world.delivery.deliver(message(payload=b""))
            assert [envelope["payloads"] for envelope in world.envelopes] == [""]

    run_virtual(main)


@pytest.mark.parametrize("seed", range(8))
def test_order_and_receipts_under_faults(seed: int) -> None:
    """Record failures, call failures, and calls that stored and then broke: only duplicates, recognised by
    id.
    """

    async def main() -> None:
        async with World().running() as world:
            world.stream._rng.seed(seed)
            world.stream.record_failure = world.stream.call_failure = world.stream.failure_after_storing = 0.2
            receipts = []
            early: list[str] = []

            def check(record_id: str) -> None:
                if all(envelope["recordId"] != record_id for envelope in world.envelopes):
                    early.append(record_id)

            for n in range(300):
                receipts.append(world.delivery.deliver(message(f"44010{n % 7:010d}", b"%d" % (n // 7))))
                receipts[-1].add_done_callback(lambda done: check(done.result().record_id))
            done = await asyncio.gather(*receipts)
            assert world.delivery.waiting == 0
            assert early == []
        by_imsi: dict[str, list[int]] = {}
        seen: set[str] = set()
        for shard in world.disk.shards:
            for record in shard:
                envelope = json.loads(record.data)
                if envelope["recordId"] not in seen:
                    seen.add(envelope["recordId"])
                    by_imsi.setdefault(envelope["imsi"], []).append(
                        int(base64.b64decode(envelope["payloads"]))
                    )
        assert seen == {receipt.record_id for receipt in done}
        assert all(values == list(range(len(values))) for values in by_imsi.values())
        assert sum(map(len, by_imsi.values())) == 300

    run_virtual(main)


def test_no_receipt_while_the_stream_waits() -> None:
    async def main() -> None:
        async with World(deadline_s=1e6).running() as world:
            world.stream.is_flowing.clear()
            receipts = [world.delivery.deliver(message(f"i{n}")) for n in range(2_000)]
            done, _ = await asyncio.wait(receipts, timeout=600)
            assert not done
            assert world.stream.under_way <= 4
            world.stream.is_flowing.set()
            await asyncio.gather(*receipts)
            assert len(world.envelopes) == 2_000
            assert world.stream.under_way_max == 4

    run_virtual(main)


class StuckOnSecond(FaultyStream):
    """The second message of ``slow`` never comes back, the first try of ``bad`` fails."""

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        self.calls += 1
        if self.calls == 1:
            await asyncio.sleep(0.01)  # long enough for the other pumps to find nothing to do
            return [
                PutResult(error="" if record.partition_key == "slow" else "InternalFailure")
                for record in records
            ]
        if records[0].partition_key == "slow":
            await asyncio.Event().wait()
        return [PutResult("shardId-000000000000", "1")] * len(records)


def test_a_call_that_hangs_holds_up_only_its_own_sims() -> None:
    async def main() -> None:
        world = World()
        world.delivery._stream = StuckOnSecond(world.disk, world.clock)
        async with world.running():
            slow = [world.delivery.deliver(message("slow")) for _ in range(2)]
            bad = world.delivery.deliver(message("bad"))
            await asyncio.wait_for(bad, 5)
            assert slow[0].done()
            assert not slow[1].done()

    run_virtual(main)


class AwayStore(MemoryObjectStore):
    async def put(self, key: str, data: bytes) -> bool:
        raise Unavailable("away")


def test_what_waits_to_be_kept_aside_is_bounded_and_ends() -> None:
    async def main() -> None:
        world, outcomes = World(), list[Outcome]()
        world.delivery = Delivery(
            stream=world.stream,
            dead_letters=AwayStore(),
            clock=world.clock,
            entropy=SeededEntropy(random.Random(1)),
        )
        async with world.running():
            for _ in range(ASIDE_MAX):
                world.delivery.keep_aside(message(), 5, lambda outcome, _: outcomes.append(outcome))
            with pytest.raises(Refused) as refused:
                world.delivery.keep_aside(message(), 5, lambda outcome, _: outcomes.append(outcome))
            assert refused.value.reason is RequestRefusal.TOO_MANY_REQUESTS
            await asyncio.sleep(DEADLINE_S + 5)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * ASIDE_MAX

    run_virtual(main)


def test_given_up_after_the_deadline_and_the_next_goes_on() -> None:
    async def main() -> None:
        async with World(deadline_s=5.0).running() as world:
            world.stream.record_failure = 1.0
            begun = world.clock.monotonic()
            first = world.delivery.deliver(message(payload=b"first"))
            with pytest.raises(Unavailable) as raised:
                await first
            assert raised.value.ambiguous
            assert 5.0 <= world.clock.monotonic() - begun < 8.0
            world.stream.record_failure = 0.0
            await world.delivery.deliver(message(payload=b"second"))
            assert len(world.envelopes) == 1

    run_virtual(main)


def test_queue_full_and_all_full() -> None:
    async def main() -> None:
        world = World(queues=KeyedQueues(records_max=KEY_RECORDS_MAX + 5))
        for _ in range(KEY_RECORDS_MAX):
            world.delivery.deliver(message())
        for imsi in ("440101234567890", "a", "b", "c", "d", "e", "f"):
            try:
                world.delivery.deliver(message(imsi))
            except Refused as refusal:
                assert refusal.reason is RequestRefusal.TOO_MANY_REQUESTS
                assert imsi in ("440101234567890", "f")
            else:
                assert imsi not in ("440101234567890", "f")

    run_virtual(main)


def test_poison_is_refused_and_blocks_nobody() -> None:
    async def main() -> None:
        async with World().running() as world:
            with pytest.raises(Refused) as raised:
                world.delivery.deliver(message(payload=bytes(800_000)))
            assert raised.value.reason is RequestRefusal.BODY_TOO_LARGE
            await world.delivery.deliver(message(payload=bytes(700_000)))

    run_virtual(main)


class PoisonedStream(FaultyStream):
    """Will never take what says so."""

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        if any(base64.b64encode(b"poison") in record.data for record in records):
            return [PutResult(error="ValidationException", is_poison=True)] * len(records)
        return await super().put(records)


class FailingStore(MemoryObjectStore):
    """Away at first."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def put(self, key: str, data: bytes) -> bool:
        self.asked.append(key)
        if len(self.asked) < 3:
            raise Unavailable("away")
        return await super().put(key, data)


def test_a_stream_that_takes_nothing_and_letters_that_cannot_be_kept_are_told_while_it_lasts() -> None:
    async def main() -> None:
        world, told = World(deadline_s=30.0), list[str]()
        faults = Faults(clock=world.clock, log=told.append)
        world.stream = PoisonedStream(world.disk, world.clock)
        objects = MemoryObjectStore()
        await objects.put(DEAD_LETTERS, b"somebody's file where the folder would be")
        world.delivery = Delivery(
            stream=world.stream,
            dead_letters=objects,
            clock=world.clock,
            entropy=SeededEntropy(random.Random(1)),
            faults=faults,
            deadline_s=30.0,
        )
        async with world.running():
            sent = world.delivery.deliver(message(payload=b"poison"))
            await asyncio.sleep(20)
            assert list(faults.standing) == ["delivery dead-letters"]
            assert "a name is a file and a folder" in told[0]
            with pytest.raises(Unavailable):
                await sent
            await asyncio.sleep(5)
            assert not faults.standing
            await world.delivery.deliver(message(payload=b"the next"))
            world.stream.call_failure = 1.0
            later = world.delivery.deliver(message(payload=b"later"))
            await asyncio.sleep(20)
            assert list(faults.standing) == ["delivery stream"]
            world.stream.call_failure = 0.0
            await later
            assert not faults.standing
        assert [line.split(": ")[0] for line in told] == [
            *["delivery dead-letters"] * 2,
            *["delivery stream"] * 2,
        ]
        assert world.delivery.dead_letters == 0

    run_virtual(main)


def test_what_the_stream_never_takes_is_a_dead_letter_and_the_queue_goes_on() -> None:
    async def main() -> None:
        world = World()
        objects = FailingStore()
        world.stream = PoisonedStream(world.disk, world.clock)
        world.delivery = Delivery(
            stream=world.stream,
            dead_letters=objects,
            clock=world.clock,
            entropy=SeededEntropy(random.Random(1)),
        )
        async with world.running():
            sent = [world.delivery.deliver(message(payload=text)) for text in (b"one", b"poison", b"two")]
            told = await asyncio.gather(*sent, return_exceptions=True)
        assert [type(outcome) for outcome in told] == [Receipt, Refused, Receipt]
        assert [envelope["payloads"] for envelope in world.envelopes] == ["b25l", "dHdv"]
        assert world.delivery.dead_letters == 1
        assert len(objects.asked) == 3, "it waited until it could be kept"
        (key,) = set(objects.asked)
        kept = json.loads(await objects.get(key) or b"")
        assert kept["payloads"] == base64.b64encode(b"poison").decode()
        assert key == f"{DEAD_LETTERS}/{kept['recordId']}"

    run_virtual(main)


def test_the_stream_down_for_two_minutes_loses_and_disorders_nothing() -> None:
    """Twenty devices that send again what was not acknowledged, each with 64 messages under way at most."""

    async def device(world: World, imsi: str, acknowledged: list[int]) -> None:
        for number in range(40):
            while True:
                try:
                    await world.delivery.deliver(message(imsi, b"%d" % number))
                except (Refused, Unavailable):
                    await asyncio.sleep(1.0)
                else:
                    acknowledged.append(number)
                    break
            await asyncio.sleep(5.0)

    async def main() -> None:
        async with World().running() as world:
            acknowledged: dict[str, list[int]] = {f"44010{n:010d}": [] for n in range(20)}
            most = 0
            async with asyncio.TaskGroup() as tasks:
                for imsi, numbers in acknowledged.items():
                    tasks.create_task(device(world, imsi, numbers))
                await asyncio.sleep(20.0)
                world.stream.call_failure = 1.0
                before = sum(map(len, acknowledged.values()))
                for _ in range(120):
                    await asyncio.sleep(1.0)
                    most = max(most, world.delivery.waiting)
                after = sum(map(len, acknowledged.values()))
                world.stream.call_failure = 0.0
            assert before < after + 1 <= before + 21, "what was being stored when it went away, no more"
            assert most <= 20, "a device waits for its message"
            assert all(numbers == list(range(40)) for numbers in acknowledged.values())
            stored: dict[str, list[int]] = {}
            for envelope in world.envelopes:
                number = int(base64.b64decode(str(envelope["payloads"])))
                stored.setdefault(str(envelope["imsi"]), []).append(number)
            assert stored == acknowledged

    run_virtual(main)


def test_ending_tells_everyone_who_waits() -> None:
    async def main() -> None:
        async with World().running() as world:
            world.stream.is_flowing.clear()
            receipts = [world.delivery.deliver(message(f"i{n}")) for n in range(10)]
            receipts[3].cancel()
            await asyncio.sleep(1)
        for receipt in receipts[:3]:
            with pytest.raises(Unavailable):
                receipt.result()
        with pytest.raises(Unavailable):
            world.delivery.deliver(message())

    run_virtual(main)


def test_cancelled_waiter_does_not_break_its_queue() -> None:
    async def main() -> None:
        async with World().running() as world:
            receipts = [world.delivery.deliver(message(payload=b"%d" % n)) for n in range(3)]
            receipts[1].cancel()
            await receipts[2]
            assert [base64.b64decode(str(e["payloads"])) for e in world.envelopes] == [b"0", b"1", b"2"]

    run_virtual(main)


class SetClock:
    def __init__(self) -> None:
        self.at = AT

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


def test_record_ids_rise_whatever_the_clock_does() -> None:
    clock = SetClock()
    ids = RecordIds(clock=clock, entropy=SeededEntropy(random.Random(1)))
    made = [ids.next() for _ in range(RecordIds.PER_MILLISECOND + 10)]
    clock.at = AT - timedelta(hours=1)
    made += [ids.next() for _ in range(10)]
    clock.at = AT + timedelta(microseconds=400)
    made += [ids.next() for _ in range(10)]
    clock.at = AT + timedelta(seconds=1)
    made += [ids.next() for _ in range(10)]
    assert made == sorted(set(made))
    assert made[-1].startswith(f"{int(clock.at.timestamp() * 1_000):012x}")


def test_two_calls_never_share_an_id() -> None:
    async def main() -> None:
        async with World().running() as world:
            same = message()
            receipts = await asyncio.gather(*(world.delivery.deliver(replace(same)) for _ in range(50)))
            assert len({receipt.record_id for receipt in receipts}) == 50

    run_virtual(main)
