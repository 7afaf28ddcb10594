"""Every try, by its name."""

from collections.abc import Callable, Mapping

from tests.outside import tries_api, tries_edge, tries_gtp, tries_radius
from tests.outside.place import Outcome, Place

__all__ = ["TRIES", "Place"]

TRIES: Mapping[str, Callable[[Place], Outcome]] = {
    **tries_gtp.TRIES,
    **tries_radius.TRIES,
    **tries_edge.TRIES,
    **tries_api.TRIES,
}
