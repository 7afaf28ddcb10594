"""``tag_name``, ``tag_value`` and ``tag_value_match_mode`` of the lists that can be filtered by tag."""

from collections.abc import Callable, Mapping
from enum import Enum

from api.calls import Call


class MatchMode(Enum):
    """How a tag's value is compared."""

    EXACT = "exact"
    PREFIX = "prefix"


def tag_filter(call: Call) -> Callable[[Mapping[str, str]], bool] | None:
    """What the call wants of tags; ``None`` when it names no tag. A value that is not given is any value."""
    mode = call.query_choice("tag_value_match_mode", MatchMode, MatchMode.EXACT)
    name, value = call.query("tag_name"), call.query("tag_value")
    if not name:
        return None

    def matches(tags: Mapping[str, str]) -> bool:
        found = tags.get(name)
        if found is None or not value:
            return found is not None
        return found == value if mode is MatchMode.EXACT else found.startswith(value)

    return matches
