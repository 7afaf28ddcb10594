"""Authorisation: whether a SIM may have a session, and which.

Rules: each refusal carries its ``AttachRefusal``; the SIM's status is written here, and nothing is allocated.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from msgspec import Struct

from core.domain.apn import Apn
from core.domain.pools import UePrefixes
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession, Proof
from core.domain.session import PdnType
from core.domain.sim import ATTACH_REFUSALS, TRANSITIONS, Sim, SimEvent
from core.domain.subscriber_policy import SubscriberPolicy
from core.domain.values import replace
from core.errors import Refused, StaleVersion
from core.ports.clock import Clock
from core.ports.store import Store
from core.services.sessions.static_addresses import StaticAddresses


class Permission(Struct, frozen=True):
    """The session that a SIM may have."""

    policy: SubscriberPolicy
    apn: Apn
    pdn_type: PdnType

    @property
    def sim(self) -> Sim:
        """The SIM."""
        return self.policy.sim

    @property
    def dns(self) -> tuple[str, ...]:
        """The name servers that the device gets, of the address families of its session."""
        return self.apn.dns_of[self.pdn_type]


class Authoriser:
    """Decides for one gateway instance; ``apns`` are the access points that it serves, ``prefixes`` the /64s
    that go with addresses.
    """

    def __init__(
        self,
        *,
        store: Store,
        static_addresses: StaticAddresses,
        clock: Clock,
        apns: Iterable[Apn],
        prefixes: UePrefixes,
    ) -> None:
        self._store = store
        self._static_addresses = static_addresses
        self._clock = clock
        self._apns: Mapping[str, Apn] = {apn.name: apn for apn in apns}
        self._prefixes = prefixes

    def serve(self, apns: Iterable[Apn]) -> None:
        """Serve these access points from now on; sessions that are open stay."""
        self._apns = {apn.name: apn for apn in apns}

    def is_served(self, name: str) -> bool:
        """Whether it is an access point; ``name`` in lower case."""
        return name in self._apns

    def pool_of(self, name: str) -> IPv4Network | None:
        """The pool of an access point, ``name`` in lower case; ``None``: the common pool."""
        return self._apns[name].ue_pool if name in self._apns else None

    async def sim_id_of(self, imsi: str) -> str:
        """The SIM of an IMSI; raises ``Refused(UNKNOWN_SIM)``, ``Unavailable``."""
        sim_id = await self._store.sims.sim_id_of_imsi(imsi)
        if sim_id is None:
            raise Refused(AttachRefusal.UNKNOWN_SIM, imsi)
        return sim_id

    async def sim_id_bound_to(self, imsi: str) -> str:
        """The same, of which ``authorise`` and ``permit`` see whether the SIM has the IMSI."""
        sim_id = await self._store.sims.sim_id_bound_to_imsi(imsi)
        if sim_id is None:
            raise Refused(AttachRefusal.UNKNOWN_SIM, imsi)
        return sim_id

    async def authorise(self, sim_id: str, request: OpenSession, proof: Proof | None = None) -> Permission:
        """Permit a session and make the SIM active by it; raises ``Refused``, ``Unavailable``."""
        while True:
            permission = await self.permit(sim_id, request, proof)
            sim = permission.policy.sim
            status, _ = TRANSITIONS[sim.status][SimEvent.ATTACH]
            if status is sim.status:
                return permission
            try:
                stored = await self._store.sims.put(replace(sim, status=status, modified=self._clock.now()))
            except StaleVersion:
                continue  # the customer changed the SIM meanwhile: decide again
            return replace(permission, policy=replace(permission.policy, sim=stored))

    async def policy_of(self, sim_id: str) -> SubscriberPolicy | None:
        """The terms of a SIM and its group; ``None``: there is no such SIM. Raises ``Unavailable``."""
        sim = await self._store.sims.get(sim_id)
        if sim is None:
            return None
        group = await self._store.groups.get(sim.operator_id, sim.group_id) if sim.group_id else None
        return SubscriberPolicy(sim, group)

    async def permit(self, sim_id: str, request: OpenSession, proof: Proof | None = None) -> Permission:
        """Whether the SIM may have this session; raises ``Refused``, ``Unavailable``."""
        policy = await self.policy_of(sim_id)
        if policy is None or not policy.sim.has_imsi(request.imsi):
            raise Refused(AttachRefusal.UNKNOWN_SIM, request.imsi)
        if request.refusal is not None:
            raise Refused(request.refusal, request.imsi)
        sim = policy.sim
        if not policy.may_connect:
            raise Refused(ATTACH_REFUSALS[sim.status], sim.status.value)
        operator = await self._store.accounts.operator(sim.operator_id)
        if operator is not None and operator.closed is not None:
            raise Refused(AttachRefusal.SIM_TERMINATED, "its customer's account is closed")
        if policy.is_locked_out(request.imei):
            raise Refused(AttachRefusal.IMEI_MISMATCH, request.imei)
        apn_name = request.apn.lower()
        if apn_name not in self._apns:
            raise Refused(AttachRefusal.UNKNOWN_APN, request.apn)
        apn = self._apns[apn_name]
        pdn_type = apn.grant(request.pdn_type)
        if pdn_type is None:
            raise Refused(AttachRefusal.PDP_TYPE_NOT_SUPPORTED, request.pdn_type.value)
        prefix = self._prefixes.of(sim.static_address) if sim.static_address else None
        wanted = None if pdn_type is PdnType.IPV4 else request.requested_prefix
        if request.requested_address not in (None, sim.static_address) or wanted not in (None, prefix):
            raise Refused(
                AttachRefusal.NOT_SUPPORTED, "a requested address that is not the SIM's static address"
            )
        grant = request.grant
        if grant is None or grant.is_allocated:
            self._static_addresses.demand_own(sim.static_address, grant.address if grant else None)
        _check_password(policy, request, proof)
        return Permission(policy, apn, pdn_type)


def _check_password(policy: SubscriberPolicy, request: OpenSession, proof: Proof | None) -> None:
    """A session with a reservation showed its password when it was reserved."""
    if request.grant is not None:
        return
    demanded = None if policy.group is None else policy.password
    if demanded is None:
        if request.must_prove:
            raise Refused(AttachRefusal.WRONG_PASSWORD, "the SIM's group has no password to check it against")
        return
    if proof is None or not proof(*demanded):
        raise Refused(AttachRefusal.WRONG_PASSWORD, request.imsi)
