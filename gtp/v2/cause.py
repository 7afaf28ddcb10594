"""GTPv2-C causes (TS 29.274 §8.4) and which of them answers which refusal."""

from collections.abc import Mapping
from enum import IntEnum

from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason


class Cause(IntEnum):
    """The values that this gateway sends or must tell apart; 16–63 accept."""

    REACTIVATION_REQUESTED = 8
    PDN_CONNECTION_INACTIVITY_TIMER_EXPIRES = 11
    REQUEST_ACCEPTED = 16
    REQUEST_ACCEPTED_PARTIALLY = 17
    NEW_PDN_TYPE_DUE_TO_NETWORK_PREFERENCE = 18
    NEW_PDN_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY = 19
    CONTEXT_NOT_FOUND = 64
    INVALID_MESSAGE_FORMAT = 65
    INVALID_LENGTH = 67
    SERVICE_NOT_SUPPORTED = 68
    MANDATORY_IE_INCORRECT = 69
    MANDATORY_IE_MISSING = 70
    SYSTEM_FAILURE = 72
    NO_RESOURCES_AVAILABLE = 73
    SYNTACTIC_ERROR_IN_TFT = 75
    MISSING_OR_UNKNOWN_APN = 78
    PREFERRED_PDN_TYPE_NOT_SUPPORTED = 83
    ALL_DYNAMIC_ADDRESSES_OCCUPIED = 84
    USER_AUTHENTICATION_FAILED = 92
    APN_ACCESS_DENIED = 93
    REQUEST_REJECTED = 94
    IMSI_NOT_KNOWN = 96
    CONDITIONAL_IE_MISSING = 103
    TEMPORARILY_REJECTED_DUE_TO_HANDOVER = 110
    APN_CONGESTION = 113
    MULTIPLE_PDN_CONNECTIONS_NOT_ALLOWED = 116
    GTP_C_ENTITY_CONGESTION = 120
    LATE_OVERLAPPING_REQUEST = 121
    UE_IS_TEMPORARILY_NOT_REACHABLE_DUE_TO_POWER_SAVING = 123

    @property
    def is_acceptance(self) -> bool:
        """16–63 (TS 29.274 table 8.4-1)."""
        return 16 <= self.value < 64


NAMES_THE_ELEMENT = frozenset(
    {
        Cause.INVALID_LENGTH,
        Cause.MANDATORY_IE_INCORRECT,
        Cause.MANDATORY_IE_MISSING,
        Cause.CONDITIONAL_IE_MISSING,
    }
)
"""Causes that say which element is at fault (§8.4)."""

CAUSE_OF_REFUSAL: Mapping[AttachRefusal, Cause] = {
    AttachRefusal.UNKNOWN_SIM: Cause.IMSI_NOT_KNOWN,
    AttachRefusal.SIM_NOT_REGISTERED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.SIM_INACTIVE: Cause.NO_RESOURCES_AVAILABLE,  # temporary: the device tries again
    AttachRefusal.SIM_SUSPENDED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.SIM_TERMINATED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.IMEI_MISMATCH: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.WRONG_PASSWORD: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.AUTHENTICATION_NOT_SUPPORTED: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.FOREIGN_SIM: Cause.USER_AUTHENTICATION_FAILED,
    AttachRefusal.UNKNOWN_APN: Cause.MISSING_OR_UNKNOWN_APN,
    AttachRefusal.PDP_TYPE_NOT_SUPPORTED: Cause.PREFERRED_PDN_TYPE_NOT_SUPPORTED,
    AttachRefusal.ADDRESSES_OCCUPIED: Cause.ALL_DYNAMIC_ADDRESSES_OCCUPIED,
    AttachRefusal.STATIC_ADDRESS_UNAVAILABLE: Cause.NO_RESOURCES_AVAILABLE,  # temporary: it is being freed
    AttachRefusal.NO_RESOURCES: Cause.NO_RESOURCES_AVAILABLE,
    AttachRefusal.CONGESTED: Cause.GTP_C_ENTITY_CONGESTION,
    AttachRefusal.APN_CONGESTED: Cause.APN_CONGESTION,
    AttachRefusal.TOO_MANY_SESSIONS: Cause.MULTIPLE_PDN_CONNECTIONS_NOT_ALLOWED,
    AttachRefusal.UNKNOWN_SESSION: Cause.CONTEXT_NOT_FOUND,
    AttachRefusal.FOREIGN_ADDRESS: Cause.SERVICE_NOT_SUPPORTED,
    AttachRefusal.NOT_SUPPORTED: Cause.SERVICE_NOT_SUPPORTED,
}
"""What each refusal looks like on this wire."""

CAUSE_OF_RELEASE: Mapping[CloseReason, Cause] = {
    CloseReason.REACTIVATE: Cause.REACTIVATION_REQUESTED,
    CloseReason.IDLE: Cause.PDN_CONNECTION_INACTIVITY_TIMER_EXPIRES,
}
"""Why a session is ended from here, where the device should know: it may come back at once, or once it has
something to say."""
