"""Keys that an earlier version had under another name.

Rule: such a key, and its variable, is refused with its present name, so that an upgrade loses no setting.
"""

from collections.abc import Mapping

RENAMED: Mapping[str, str] = {}
"""Present keys by earlier ones, both from the section on, no item numbers: ``gateway.peers.name``."""


def name_now(key: str) -> str:
    """The present name of a key; empty: it was not renamed."""
    return RENAMED.get(key, "")
