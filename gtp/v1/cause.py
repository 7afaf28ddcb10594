"""GTPv1-C causes (TS 29.060 §7.7.1) and which of them answers which refusal."""

from collections.abc import Mapping
from enum import IntEnum

from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason


class Cause(IntEnum):
    """The values that this gateway sends or must tell apart; below 128 are of requests."""

    REACTIVATION_REQUESTED = 6
    PDP_ADDRESS_INACTIVITY_TIMER_EXPIRES = 7
    REQUEST_ACCEPTED = 128
    NEW_PDP_TYPE_DUE_TO_NETWORK_PREFERENCE = 129
    NEW_PDP_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY = 130
    NON_EXISTENT = 192
    INVALID_MESSAGE_FORMAT = 193
    VERSION_NOT_SUPPORTED = 198
    NO_RESOURCES_AVAILABLE = 199
    SERVICE_NOT_SUPPORTED = 200
    MANDATORY_IE_INCORRECT = 201
    MANDATORY_IE_MISSING = 202
    SYSTEM_FAILURE = 204
    USER_AUTHENTICATION_FAILED = 209
    CONTEXT_NOT_FOUND = 210
    ALL_DYNAMIC_PDP_ADDRESSES_OCCUPIED = 211
    UNKNOWN_MANDATORY_EXTENSION_HEADER = 214
    MISSING_OR_UNKNOWN_APN = 219
    UNKNOWN_PDP_ADDRESS_OR_PDP_TYPE = 220
    APN_CONGESTION = 229
    UE_IS_TEMPORARILY_NOT_REACHABLE_DUE_TO_POWER_SAVING = 232

    @property
    def is_acceptance(self) -> bool:
        """128–191 (TS 29.060 §7.7.1)."""
        return 128 <= self.value < 192


CAUSE_OF_REFUSAL: Mapping[AttachRefusal, Cause] = {
    AttachRefusal.UNKNOWN_SIM: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.SIM_NOT_REGISTERED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.SIM_INACTIVE: Cause.NO_RESOURCES_AVAILABLE,  # temporary: the device tries again
    AttachRefusal.SIM_SUSPENDED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.SIM_TERMINATED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.IMEI_MISMATCH: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.WRONG_PASSWORD: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.AUTHENTICATION_NOT_SUPPORTED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.FOREIGN_SIM: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.UNKNOWN_APN: Cause.MISSING_OR_UNKNOWN_APN,
    AttachRefusal.PDP_TYPE_NOT_SUPPORTED: Cause.UNKNOWN_PDP_ADDRESS_OR_PDP_TYPE,
    AttachRefusal.ADDRESSES_OCCUPIED: Cause.ALL_DYNAMIC_PDP_ADDRESSES_OCCUPIED,
    AttachRefusal.STATIC_ADDRESS_UNAVAILABLE: Cause.NO_RESOURCES_AVAILABLE,  # temporary: it is being freed
    AttachRefusal.NO_RESOURCES: Cause.NO_RESOURCES_AVAILABLE,
    AttachRefusal.CONGESTED: Cause.NO_RESOURCES_AVAILABLE,
    AttachRefusal.APN_CONGESTED: Cause.APN_CONGESTION,
    AttachRefusal.TOO_MANY_SESSIONS: Cause.NO_RESOURCES_AVAILABLE,
    AttachRefusal.UNKNOWN_SESSION: Cause.NON_EXISTENT,
    AttachRefusal.FOREIGN_ADDRESS: Cause.SERVICE_NOT_SUPPORTED,
    AttachRefusal.NOT_SUPPORTED: Cause.SERVICE_NOT_SUPPORTED,
}
"""What each refusal looks like on this wire. Temporary ones let the device try again, the others most
devices take as final for the APN."""

CAUSE_OF_RELEASE: Mapping[CloseReason, Cause] = {
    CloseReason.REACTIVATE: Cause.REACTIVATION_REQUESTED,
    CloseReason.IDLE: Cause.PDP_ADDRESS_INACTIVITY_TIMER_EXPIRES,
}
"""Why a session is ended from here, where the device should know: it may come back at once, or once it has
something to say."""
