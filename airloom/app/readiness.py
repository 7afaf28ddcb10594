"""Readiness of a node by role, for ``/readyz`` and ``airloom node status``.

Rules:

- Every ``LOOK_S`` it is checked that the store takes a row and gives it back and the stream answers, within
  ``ANSWER_S``; a request for readiness costs nothing, so that frequent ones slow neither node nor store.
- ``gateway`` and ``aaa`` are ready while a gateway instance of theirs is held. A node that stands by while
  others hold them all is ready as a whole, but not for traffic to these roles. ``api`` and ``meter`` need the
  store; ``edge`` is ready once it is open: a stream that is away is shown, it acknowledges nothing meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable

from airloom.app.adapters import Adapters
from airloom.app.node import Node
from api.ready import READY, Readiness
from core.config import Config
from core.config.node import ROLE_OF_PROTOCOL
from core.services.cluster.lease_coordinator import State

LOOK_S, ANSWER_S = 2.0, 2.0
OK = "ok"
DRAINING = "draining"


class NodeReadiness:
    """Looks at one node while ``run`` runs."""

    def __init__(self, *, config: Config, adapters: Adapters, node: Node) -> None:
        self._config = config
        self._node = node
        self._world = adapters
        self._store = self._stream = "not asked yet"

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask the store and the stream once."""
        world, name = self._world, self._config.node.name
        self._store, self._stream = await asyncio.gather(
            _asked(lambda: world.store.prove(name)), _asked(world.stream.shards)
        )

    def of(self, role: str = "") -> Readiness:
        """Of one role, or of the node as a whole."""
        roles = self._config.node.roles
        if role and role not in roles:
            return Readiness("not a role of this node", {})
        wanted = (role,) if role else roles
        parts = self._parts()
        if self._node.coordinator.is_draining:
            return Readiness(DRAINING, parts)
        lacking = [each for each in wanted if not self._is_able(each, alone=bool(role))]
        return Readiness(f"not ready: {', '.join(lacking)}" if lacking else READY, parts)

    def _is_able(self, role: str, *, alone: bool) -> bool:
        if role == "edge":
            return True
        if self._store != OK:
            return False
        if role in ROLE_OF_PROTOCOL.values():
            return self._holds(role) or (not alone and self._stands_by(role))
        return True

    def _holds(self, role: str) -> bool:
        return any(
            ROLE_OF_PROTOCOL[protocol] == role
            for held in self._node.held.values()
            for protocol in self._config.protocols_of(held.own)
        )

    def _stands_by(self, role: str) -> bool:
        """Whether other nodes hold whatever this one could for this role, if there is any such protocol."""
        states = self._node.coordinator.states
        theirs = [
            states[each.id]
            for each in self._config.holdable
            if each.id in states
            and role in {ROLE_OF_PROTOCOL[protocol] for protocol in self._config.protocols_of(each)}
        ]
        return all(each.state is State.ELSEWHERE for each in theirs)

    def _parts(self) -> dict[str, str]:
        roles = self._config.node.roles
        parts = {"store": self._store, "stream": self._stream}
        if {"gateway", "aaa"} & set(roles):
            counts = self._node.coordinator.counts
            parts["gateways"] = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        if "edge" in roles:
            parts["edge"] = self._node.edge.serves
        elif (links := self._node.edge_links) is not None:
            parts["edge"] = f"{links.up} of {len(self._config.edge.nodes)} nodes reached"
        return parts


async def _asked(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        async with asyncio.timeout(ANSWER_S):
            await ask()
    except TimeoutError:
        return f"no answer within {ANSWER_S:g} s"
    except Exception:  # whatever is wrong with it: a look that ended would go on saying what was
        return "away"
    return OK
