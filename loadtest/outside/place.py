"""Where a try takes place: a checkout, a folder, addresses and ports of its own."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.outside.gtp import Peer
from loadtest.outside.node import ApiClient, Node

Outcome = dict[str, Any]
NAS_SECRET = "a-secret-of-this-nas"  # noqa: S105 - of a lab


@dataclass(frozen=True, slots=True)
class Place:
    """``number`` keeps tries apart that run side by side."""

    tree: Path
    folder: Path
    number: int

    def address(self, last: int) -> str:
        """One of this try's."""
        return f"127.90.{self.number}.{last}"

    def node(self, **settings: str) -> Node:
        """A node at the first address."""
        return self.node_of(None, **settings)

    def node_of(self, file: Path | None, **settings: str) -> Node:
        """One that reads this configuration, too."""
        node = Node(self.tree, self.folder, self.address(1), 18_100 + self.number, **settings)
        node.file = file
        return node

    def peer(self, last: int = 2, *, recovery: int = 1) -> Peer:
        """A roaming partner's node."""
        return Peer(self.address(last), self.address(1), recovery=recovery)

    def customer(self, node: Node, name: str = "outside") -> ApiClient:
        """An operator of the sandbox."""
        return ApiClient(node, f"{name}@example.com")

    def partners(self, **names: Sequence[int]) -> dict[str, str]:
        """Settings for a table of partners, by the last octets of their addresses."""
        table = [
            {"name": name, "networks": [f"{self.address(each)}/32" for each in own]}
            for name, own in names.items()
        ]
        return {"GATEWAY__PEERS": json.dumps(table)}

    def nases(self, **secrets: int) -> dict[str, str]:
        """Settings for RADIUS clients: secret and last octet."""
        table = [
            {"network": f"{self.address(last)}/32", "secret": secret} for secret, last in secrets.items()
        ]
        return {"RADIUS__CLIENTS": json.dumps(table)}


class Echoes:
    """A partner that asks for Echo all the time: how long its answers take."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._stopped = threading.Event()
        self.took: list[float] = []
        self.lost = 0
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Echoes":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stopped.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            if self._peer.echo() is None:
                self.lost += 1
            else:
                self.took.append(time.monotonic() - began)
            self._stopped.wait(0.02)

    @property
    def p99_ms(self) -> float:
        """Of those that were answered."""
        return percentile(self.took, 99)


def percentile(took: Sequence[float], percent: float) -> float:
    """In milliseconds; -1 where there is none."""
    if not took:
        return -1.0
    return round(sorted(took)[min(len(took) - 1, int(len(took) * percent / 100))] * 1e3, 1)


def eventually(what: Callable[[], Any], *, within_s: float) -> Any:
    """What it says as soon as that is true, or at last."""
    until = time.monotonic() + within_s
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.1)
    return found
