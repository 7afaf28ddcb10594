"""Drop reasons and GTP-U signals, by the names that metrics use."""

from enum import StrEnum


class Drop(StrEnum):
    """Why a packet went no further."""

    MALFORMED = "malformed"  # not GTPv1-U, cut short, or an extension header chain that does not end
    EXTENSION_HEADER = "extension_header"  # an unknown one that must be understood
    UNKNOWN_MESSAGE = "unknown_message"
    UNKNOWN_TEID = "unknown_teid"
    WRONG_PEER = "wrong_peer"  # a known TEID from who is neither its session's peer nor of the same partner
    INNER_NOT_IP = "inner_not_ip"
    INNER_MALFORMED = "inner_malformed"
    WRONG_SOURCE = "wrong_source"  # not the device's own address, prefix or link-local address
    LINK_LOCAL = "link_local"  # on the device's link, and no solicitation that is answered
    FORBIDDEN_DESTINATION = "forbidden_destination"
    NO_INTERNET = "no_internet"  # no way to the internet is configured
    INTERNET_FULL = "internet_full"  # the kernel would not take it
    NO_EDGE = "no_edge"  # this node serves no platform addresses
    UNKNOWN_DEVICE = "unknown_device"  # downlink for an address without a session
    WRONG_DEVICE = "wrong_device"  # injected for one session, addressed to another device
    PEER_FULL = "peer_full"  # the kernel would not send it
    OVER_SPEED_UP = "over_speed_up"  # faster than the session may send
    OVER_SPEED_DOWN = "over_speed_down"  # faster than the session may be sent
    SUSPENDED = "suspended"  # downlink while nothing may be sent to the device
    TOO_BIG = "too_big"  # larger than the tunnel takes, and not to be fragmented


class Signal(StrEnum):
    """Messages of the path itself that were sent, answered, heeded or taken note of."""

    ECHO_ANSWERED = "echo_answered"
    ECHO_RESPONSE = "echo_response"
    END_MARKER = "end_marker"
    END_MARKER_SENT = "end_marker_sent"
    SUPPORTED_EXTENSION_HEADERS = "supported_extension_headers"
    EXTENSION_HEADERS_NOTIFIED = "extension_headers_notified"
    EXTENSION_HEADERS_WITHHELD = "extension_headers_withheld"  # above the rate, or no answer is due
    ERROR_INDICATION_SENT = "error_indication_sent"
    ERROR_INDICATION_WITHHELD = "error_indication_withheld"  # TEID 0, or above the rate
    ERROR_INDICATION_ACCEPTED = "error_indication_accepted"
    ERROR_INDICATION_IGNORED = "error_indication_ignored"  # malformed, not the peer's, or nothing was sent
    ERROR_INDICATION_EXCESS = "error_indication_excess"  # above the rate at which a peer's are looked at
    ROUTER_ADVERTISED = "router_advertised"
    NEIGHBOUR_ADVERTISED = "neighbour_advertised"
    TOO_BIG_SENT = "too_big_sent"
    TOO_BIG_WITHHELD = "too_big_withheld"  # above the rate, or about a packet that gets no ICMP error
