"""What the endpoint serves now: our end, and the access points."""

from collections.abc import Sequence

from core.domain.apn import Apn
from core.domain.session import PdnType, Session
from core.domain.values import replace
from gtp.wire import GatewayEnd, PdnTypeChange

ONE_FAMILY = (PdnType.IPV4, PdnType.IPV6)


class Serving:
    """``gateway`` changes when our sessions were lost, the access points by a reload."""

    def __init__(self, gateway: GatewayEnd, apns: Sequence[Apn]) -> None:
        self.gateway = gateway
        self.apns = {apn.name: apn for apn in apns}

    def reload(self, apns: Sequence[Apn]) -> None:
        """Serve these access points from now on."""
        self.apns = {apn.name: apn for apn in apns}

    def on_own_restart(self, counter: int) -> None:
        """Our sessions were lost: this restart counter is sent from now on (TS 23.007 §18)."""
        self.gateway = replace(self.gateway, recovery=counter & 0xFF)

    def apn_of(self, session: Session) -> Apn:
        """The access point of a session; of one that is served no longer its name alone."""
        return self.apns.get(session.apn.lower()) or Apn(session.apn)

    def one_family_of(self, apn_name: str, otherwise: PdnType) -> PdnType:
        """What to ask for of both families, when the peer's bearers take one (TS 23.401 §5.3.1.1)."""
        if (apn := self.apns.get(apn_name)) is None:
            return PdnType.IPV4V6
        return next((one for one in ONE_FAMILY if one in apn.pdn_types), otherwise)


def pdn_type_change(apn: Apn, *, has_dual: bool) -> PdnTypeChange:
    """Why a device has one family that asked for both; ``has_dual``: its bearers carry both."""
    if not has_dual and PdnType.IPV4V6 in apn.pdn_types:
        return PdnTypeChange.SINGLE_ADDRESS_BEARER_ONLY
    return PdnTypeChange.NETWORK_PREFERENCE
