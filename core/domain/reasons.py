"""Reasons for refusals, independent of protocol.

Rule: two closed lists. ``AttachRefusal`` has the reasons of network front ends (GTP, RADIUS),
``RequestRefusal`` those of the customer API. Each front end maps its list to its wire in one table, and a
test asserts that the table is total.
"""

from core.domain.values import KeyEnum


class AttachRefusal(KeyEnum):
    """Why a session was not opened, changed or found."""

    UNKNOWN_SIM = "unknown_sim"
    SIM_INACTIVE = "sim_inactive"
    SIM_SUSPENDED = "sim_suspended"
    SIM_TERMINATED = "sim_terminated"
    SIM_NOT_REGISTERED = "sim_not_registered"
    IMEI_MISMATCH = "imei_mismatch"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a reason's name
    AUTHENTICATION_NOT_SUPPORTED = "authentication_not_supported"
    FOREIGN_SIM = "foreign_sim"
    UNKNOWN_APN = "unknown_apn"
    PDP_TYPE_NOT_SUPPORTED = "pdp_type_not_supported"
    ADDRESSES_OCCUPIED = "addresses_occupied"
    STATIC_ADDRESS_UNAVAILABLE = "static_address_unavailable"
    NO_RESOURCES = "no_resources"
    CONGESTED = "congested"
    APN_CONGESTED = "apn_congested"
    TOO_MANY_SESSIONS = "too_many_sessions"
    UNKNOWN_SESSION = "unknown_session"
    FOREIGN_ADDRESS = "foreign_address"
    NOT_SUPPORTED = "not_supported"


class RequestRefusal(KeyEnum):
    """Why a customer's request was not carried out."""

    NOT_AUTHENTICATED = "not_authenticated"
    NOT_PERMITTED = "not_permitted"
    NOT_FOUND = "not_found"
    INVALID_FIELD = "invalid_field"
    BODY_TOO_LARGE = "body_too_large"
    ALREADY_REGISTERED = "already_registered"
    ALREADY_EXISTS = "already_exists"
    INVALID_TRANSITION = "invalid_transition"
    TERMINATION_PROTECTED = "termination_protected"
    SIM_OFFLINE = "sim_offline"
    NOT_SUPPORTED = "not_supported"
    TOO_MANY_REQUESTS = "too_many_requests"
    LIMIT_REACHED = "limit_reached"
