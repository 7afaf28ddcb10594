"""A repeated write after a lost answer: what its own first try stored is done, another's is a conflict."""

from contextlib import suppress

import pytest

from core.adapters.store.engine import Batch, Condition, Delete, Put
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.tables import GATEWAY_LEASE
from core.errors import StaleVersion, Unavailable
from tests.contract import three_nodes
from tests.contract.stores import SetClock
from tests.contract.three_nodes import PatientEngine

PARTITION = ("vg-1",)


def lease(body: str, before: int) -> Batch:
    return Batch(GATEWAY_LEASE, PARTITION, (Put((), (body,), before + 1),), Condition((), before))


class LosesAnswers(MemoryEngine):
    """The first ``lost`` writes take effect, or another's does, and are not answered."""

    def __init__(self, lost: int, other: Batch | None = None) -> None:
        super().__init__(disk=Disk(), clock=SetClock())
        self.left, self.other = lost, other

    async def write(self, *batches: Batch) -> None:
        if not self.left:
            return await super().write(*batches)
        self.left -= 1
        with suppress(StaleVersion):
            await super().write(*([self.other] if self.other else batches))
        raise Unavailable("no answer in time", ambiguous=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(three_nodes, "PAUSE_S", 0)
    monkeypatch.setattr(three_nodes, "TRIES", 3)


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_what_the_first_try_stored_is_done(lost: int) -> None:
    engine = PatientEngine(below := LosesAnswers(lost))
    await engine.write(lease("one", 0))
    below.left = lost
    await engine.write(lease("two", 1))
    below.left = lost
    await engine.write(Batch(GATEWAY_LEASE, PARTITION, (Delete(()),), Condition((), 2)))
    assert not below.left


async def test_what_another_stored_is_a_conflict() -> None:
    with pytest.raises(StaleVersion):
        await PatientEngine(LosesAnswers(1, other=lease("another", 0))).write(lease("one", 0))


async def test_a_conflict_without_a_lost_answer_is_one() -> None:
    engine = PatientEngine(LosesAnswers(0))
    await engine.write(lease("one", 0))
    with pytest.raises(StaleVersion):
        await engine.write(lease("one", 0))


async def test_a_store_that_stays_away_is_reported_in_the_end() -> None:
    with pytest.raises(Unavailable):
        await PatientEngine(LosesAnswers(4)).write(lease("one", 0))
