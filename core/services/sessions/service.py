"""The sessions of one gateway instance: the parts, wired, and the verbs that a protocol needs.

Rule: no behaviour here; each verb is that of the part that its file is named for.
"""

from collections.abc import Mapping, Sequence

from core.domain.apn import Apn
from core.domain.session import Session
from core.ports.clock import Clock, Entropy
from core.ports.store import Store
from core.ports.user_plane import UserPlane
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.metering.usage import UsageMeter
from core.services.sessions.authoriser import Authoriser
from core.services.sessions.close import SessionCloser
from core.services.sessions.common import Common
from core.services.sessions.history import SessionHistory
from core.services.sessions.modify import SessionModifier
from core.services.sessions.open import SessionOpener
from core.services.sessions.recovery import SessionRecovery
from core.services.sessions.static_addresses import StaticAddresses


class Sessions:
    """The session service of one node and its gateway instance.

    ``apns`` are the access points that are served; a SIM has at most ``sessions_per_sim_max`` sessions here.
    """

    def __init__(
        self,
        *,
        store: Store,
        gateway: GatewayInstance,
        user_plane: UserPlane,
        usage: UsageMeter,
        static_addresses: StaticAddresses,
        clock: Clock,
        entropy: Entropy,
        apns: Sequence[Apn],
        sessions_per_sim_max: int,
    ) -> None:
        authoriser = Authoriser(
            store=store, static_addresses=static_addresses, clock=clock, apns=apns, prefixes=gateway.prefixes
        )
        history = SessionHistory(store=store, clock=clock, entropy=entropy, gateway_id=gateway.gateway_id)
        self.common = common = Common(
            store=store,
            gateway=gateway,
            user_plane=user_plane,
            usage=usage,
            static_addresses=static_addresses,
            history=history,
        )
        self.closer = closer = SessionCloser(common=common)
        self.modifier = SessionModifier(common=common, closer=closer, authoriser=authoriser)
        self.opener = SessionOpener(
            common=common,
            closer=closer,
            modifier=self.modifier,
            authoriser=authoriser,
            clock=clock,
            entropy=entropy,
            sessions_per_sim_max=sessions_per_sim_max,
        )
        self.recovery = SessionRecovery(common=common, closer=closer)
        self.open = self.opener.open
        self.permit = self.opener.permit
        self.carried_unopened = self.opener.carried_unopened
        self.modify = self.modifier.modify
        self.refresh_sessions_of = self.modifier.refresh_sessions_of
        self.close = closer.close
        self.close_lost = closer.close_lost
        self.finish = closer.finish
        self.end_sessions_of = closer.end_sessions_of
        self.ended = history.ended
        self.remark = history.remark
        self.demand_sim = authoriser.sim_id_of
        self.serve = authoriser.serve
        self.is_served = authoriser.is_served
        self.pool_of = authoriser.pool_of
        self.open_sessions: Mapping[str, Session] = common.index.by_id
        """By session id; a live view."""
        self.session_at = common.index.at
        self.state_of = common.state_of
        self.front_end_of = common.front_end_of
