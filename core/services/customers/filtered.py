"""Pages of a list of which only some items are wanted.

Rule: a page is short, or empty, only when the list ends or a bound is reached; it then goes on from its key.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from core.ports.store import PAGE_MAX, Page

T = TypeVar("T")

SCANNED_PAGES_MAX = 10
"""Pages of 1,000 items that are looked through once something was found."""
EMPTY_PAGES_MAX = 100
"""Pages that are looked through while nothing was: clients take an empty page for the end."""


class ReadPage(Protocol[T]):
    """Reads items in the order of their keys."""

    def __call__(self, *, after: str, limit: int) -> Awaitable[Page[T]]:
        """A page."""
        ...


async def filtered_page(
    read: ReadPage[T],
    matches: Callable[[T], bool] | None,
    *,
    key_of: Callable[[T], str],
    after: str,
    limit: int,
) -> Page[T]:
    """The items that match, ``limit`` of them at most; all items when there is nothing to match."""
    if matches is None:
        return await read(after=after, limit=limit)
    found: list[T] = []
    for scanned in range(1, EMPTY_PAGES_MAX + 1):
        page = await read(after=after, limit=PAGE_MAX)
        found += [item for item in page.items if matches(item)]
        if len(found) > limit:
            return Page(tuple(found[:limit]), key_of(found[limit - 1]))
        after = page.next_key
        if not after or (found and scanned >= SCANNED_PAGES_MAX):
            break
    return Page(tuple(found), after)
