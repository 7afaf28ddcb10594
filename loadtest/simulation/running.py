"""A running world, as its customer and the checks during the run see it."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Protocol

from airloom.app.gateway_runtime import GatewayRuntime
from airloom.app.node import Node
from core.adapters.store.engine import Engine
from core.adapters.store.memory import Disk
from core.domain.session import Session
from core.domain.sim import Sim
from loadtest.peers.device import SimulatedDevice
from loadtest.peers.gtp import GtpPeer, PdpContext
from loadtest.peers.nas import Nas, NasSession
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import VirtualClock, VirtualNetwork


@dataclass(slots=True)
class SimState:
    """A SIM as its device and its owner see it."""

    sim: Sim
    context: PdpContext | None = None
    peer: GtpPeer[Any] | None = None
    device: SimulatedDevice | None = None
    nas_session: NasSession | None = None
    nas: Nas | None = None
    is_touched: bool = False
    """The customer cut it off after it last asked for a session."""
    cuts_under_way: int = 0
    acknowledged: list[bytes] = field(default_factory=list)
    number: int = 0

    @property
    def imsi(self) -> str:
        """Its identity."""
        return self.sim.imsi


class RunningWorld(Protocol):
    """What the parts of a run share. ``gate`` is set while a node serves; ``engine`` is a real store, if the
    run is on one.
    """

    plan: Plan
    rng: random.Random
    policy_rng: random.Random
    clock: VirtualClock
    network: VirtualNetwork
    disk: Disk
    engine: Engine | None
    gate: asyncio.Event
    node: Node
    peers: list[GtpPeer[Any]]
    sims: list[SimState]
    findings: list[str]
    bearers_made: int

    async def holding(self) -> GatewayRuntime:
        """The gateway instance, once it is held."""
        ...

    def open_sessions(self) -> list[Session]:
        """The open sessions of every gateway instance that the node holds."""
        ...
