"""GTPv1-C requests as bytes, written by position so that they do not lean on our encoder."""

from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from itertools import count

from core.domain.apn import Apn
from core.domain.requests import PeerTunnel
from core.domain.session import Access, Session, Tunnel
from gtp.endpoint import GtpcEndpoint
from gtp.events import SessionRequested
from gtp.version import Version

SGSN = ("127.0.1.1", 2123)
IMSI = "440100000000001"
IMSI_OCTETS = bytes.fromhex("44100000000000f1")
QOS = bytes.fromhex("000b921f")
APN = Apn("soracom.io", dns=(IPv4Address("100.127.0.53"), IPv4Address("100.127.1.53")))
PCO_DNS = bytes.fromhex("80000d00001000")


def counting(before: int) -> Callable[[int], bytes]:
    """Random bytes that count up, so that a test knows the sequence numbers: the first is the next one."""
    numbers = count(before + 1)
    return lambda length: next(numbers).to_bytes(length, "big")


def message(kind: int, teid: int, sequence: int, body: bytes) -> bytes:
    return (
        bytes((0x32, kind))
        + (len(body) + 4).to_bytes(2, "big")
        + teid.to_bytes(4, "big")
        + (sequence.to_bytes(2, "big") + b"\0\0" + body)
    )


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def imsi_octets(number: int) -> bytes:
    """The IMSI of the n-th device; the first is ``IMSI``."""
    digits = f"44010{number:010}f"
    return bytes(int(high + low, 16) for low, high in zip(digits[::2], digits[1::2], strict=True))


def create_elements(
    *, recovery: int = 7, nsapi: int = 5, pdp_type: bytes = b"\xf1\x21", device: int = 1
) -> list[bytes]:
    """In the order of types; a test leaves one out or breaks it."""
    return [
        b"\x02" + imsi_octets(device),
        b"\x0e" + bytes((recovery,)),
        b"\x0f\xfc",
        b"\x10" + (0x1001).to_bytes(4, "big"),
        b"\x11" + (0x2001).to_bytes(4, "big"),
        b"\x14" + bytes((nsapi,)),
        tlv(0x80, pdp_type),
        tlv(0x83, b"\x07soracom\x02io"),
        tlv(0x84, PCO_DNS),
        tlv(0x85, bytes((127, 0, 1, 1))),
        tlv(0x85, bytes((127, 0, 1, 1))),
        tlv(0x86, bytes.fromhex("911809214365")),
        tlv(0x87, QOS),
        tlv(0x97, b"\x06"),
        tlv(0x98, bytes.fromhex("0044f0010001aabb")),
        tlv(0x9A, bytes.fromhex("5320000000000010")),
    ]


def create_request(sequence: int = 1, **changes: int) -> bytes:
    return message(16, 0, sequence, b"".join(create_elements(**changes)))  # type: ignore[arg-type]  # bytes


def update_request(teid: int, sequence: int, *, address: bytes = bytes((127, 0, 1, 1))) -> bytes:
    body = (
        b"\x0e\x07\x10"
        + (0x1002).to_bytes(4, "big")
        + b"\x11"
        + (0x2002).to_bytes(4, "big")
        + b"\x14\x05"
        + tlv(0x85, address) * 2
        + tlv(0x87, QOS)
    )
    return message(18, teid, sequence, body)


def delete_request(teid: int, sequence: int) -> bytes:
    return message(20, teid, sequence, b"\x13\xff\x14\x05")


def session(
    number: int = 1, *, control_address: str = "127.0.1.1", restart_counter: int | None = None
) -> Session:
    return Session(
        session_id=f"{number:032x}",
        sim_id="8981100000000000001",
        imsi=IMSI,
        operator_id="OP0000000001",
        access=Access.GTPV1,
        apn="soracom.io",
        ue_address=IPv4Address("10.128.0.2"),
        gateway_id="vg-1",
        opened=datetime(2026, 11, 24, tzinfo=UTC),
        speed_class="s1.standard",
        tunnel=Tunnel(
            local_teid_control=0xA0000000 + number,
            local_teid_user=0xB0000000 + number,
            peer_teid_control=0x2001,
            peer_teid_user=0x1001,
            peer_control_address=control_address,
            peer_user_address=control_address,
            nsapi=5,
            charging_id=0xB0000000 + number,
            peer_restart_counter=restart_counter,
        ),
    )


def peer_of(event: SessionRequested) -> PeerTunnel:
    """Where the peer that asks for a session has its ends."""
    assert event.asked.peer is not None
    return event.asked.peer


def only(machine: GtpcEndpoint) -> Version:
    """The version of an endpoint that speaks one."""
    (version,) = machine.versions.values()
    return version


def put_off_in(machine: GtpcEndpoint) -> int:
    """Of how many sessions requests of ours wait for their devices."""
    return sum(map(machine.put_off_of, machine.versions))
