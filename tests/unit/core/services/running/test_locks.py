"""One at a time for each key."""

import asyncio

from core.services.running.locks import KeyedLocks


def test_who_holds_a_key_goes_before_those_that_wait_in_order() -> None:
    locks, done = KeyedLocks(), list[str]()

    async def work(name: str, key: str) -> None:
        async with locks.hold(key):
            done.append(f"{name} begins")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            done.append(f"{name} ends")

    async def main() -> None:
        await asyncio.gather(work("a", "x"), work("b", "x"), work("other", "y"), work("c", "x"))

    asyncio.run(main())
    assert [each for each in done if "other" not in each] == [
        f"{name} {what}" for name in "abc" for what in ("begins", "ends")
    ]
    assert done.index("other ends") < done.index("b begins"), "another key does not wait"
    assert len(locks) == 0


def test_who_gives_up_waiting_leaves_the_key_to_the_others() -> None:
    locks, done = KeyedLocks(), list[str]()

    async def work(name: str) -> None:
        async with locks.hold("x"):
            done.append(name)
            await asyncio.sleep(0.01)

    async def main() -> None:
        works = [asyncio.create_task(work(name)) for name in ("a", "b", "c")]
        await asyncio.sleep(0)
        works[1].cancel()
        await asyncio.wait(works)
        await work("d")

    asyncio.run(main())
    assert done == ["a", "c", "d"]
    assert len(locks) == 0


def test_a_key_is_free_again_after_a_failure() -> None:
    locks = KeyedLocks()

    async def main() -> None:
        for _ in range(2):
            try:
                async with locks.hold("x"):
                    raise ValueError
            except ValueError:
                assert len(locks) == 0

    asyncio.run(main())
