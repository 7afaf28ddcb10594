"""Every try, by its name."""

from collections.abc import Callable, Mapping

from tests.outside import tries_gtp
from tests.outside.place import Outcome, Place

__all__ = ["TRIES", "Place"]

TRIES: Mapping[str, Callable[[Place], Outcome]] = {**tries_gtp.TRIES}
