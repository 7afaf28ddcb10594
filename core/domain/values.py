"""Values: frozen dataclasses, and frozen ``msgspec`` structs where there are as many as sessions.

Rule: a value is changed by making another one, with ``replace``, whichever of the two it is. A struct is made
six times and changed fifty times as fast as a dataclass, takes less memory, and ``gc=False`` keeps a million
of them out of the collector's way; it must then refer to nothing that could lead back to it.
"""

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import replace
else:
    from dataclasses import replace as _replace_dataclass

    from msgspec import StructMeta
    from msgspec.structs import replace as _replace_struct

    def replace(value, /, **changes):
        """The value with these fields changed; raises ``TypeError`` for a field that it does not have."""
        is_struct = type(type(value)) is StructMeta
        return (_replace_struct if is_struct else _replace_dataclass)(value, **changes)


class KeyEnum(Enum):
    """An enumeration whose members are keys of dictionaries and sets: there is one object of each member, and
    its own hash costs no call, while ``Enum`` hashes its name by two.
    """

    __hash__ = object.__hash__


__all__ = ["KeyEnum", "replace"]
