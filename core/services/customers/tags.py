"""Tags of SIMs and groups: names and values, all bounded."""

from collections.abc import Mapping

from core.domain.reasons import RequestRefusal
from core.errors import Refused

TAGS_MAX = 50
"""Tags of one SIM or group."""
TAG_NAME_CHARACTERS_MAX = 128
TAG_VALUE_CHARACTERS_MAX = 1_024


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises ``Refused``: ``INVALID_FIELD`` for a name or value that does not fit, ``LIMIT_REACHED``."""
    for name, value in tags.items():
        if not 0 < len(name) <= TAG_NAME_CHARACTERS_MAX:
            raise Refused(RequestRefusal.INVALID_FIELD, f"tagName: 1 to {TAG_NAME_CHARACTERS_MAX} characters")
        if len(value) > TAG_VALUE_CHARACTERS_MAX:
            raise Refused(
                RequestRefusal.INVALID_FIELD, f"tagValue: up to {TAG_VALUE_CHARACTERS_MAX} characters"
            )
    if len(tags) > TAGS_MAX:
        raise Refused(RequestRefusal.LIMIT_REACHED, f"more than {TAGS_MAX} tags")
