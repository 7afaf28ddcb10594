"""GTPv2-C requests as bytes, written by position so that they do not lean on our encoder."""

from tests.support.gtp import imsi_octets

SGW = ("127.0.2.1", 2123)
SGW_ADDRESS = bytes((127, 0, 2, 1))
PAA_OCTETS = {1: 4, 2: 17, 3: 21}


def message2(kind: int, teid: int | None, sequence: int, body: bytes) -> bytes:
    tail = sequence.to_bytes(3, "big") + b"\0" + body
    if teid is None:
        return bytes((0x40, kind)) + len(tail).to_bytes(2, "big") + tail
    return bytes((0x48, kind)) + (len(tail) + 4).to_bytes(2, "big") + teid.to_bytes(4, "big") + tail


def element(kind: int, value: bytes, instance: int = 0) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + bytes((instance,)) + value


def f_teid(interface: int, teid: int, instance: int, address: bytes = SGW_ADDRESS) -> bytes:
    return element(87, bytes((0x80 | interface,)) + teid.to_bytes(4, "big") + address, instance)


def bearer_context() -> list[bytes]:
    return [
        element(73, b"\x05"),
        f_teid(4, 0x1001, 2),
        element(80, bytes.fromhex("7409") + bytes(20)),
    ]


def create_elements(*, pdn_type: int = 1, device: int = 1) -> dict[str, bytes]:
    """By name; a test leaves one out or breaks it."""
    return {
        "imsi": element(1, imsi_octets(device)),
        "msisdn": element(76, bytes.fromhex("1809214365")),
        "mei": element(75, bytes.fromhex("5320000000000010")),
        "uli": element(86, bytes.fromhex("18" "44f0010001" "44f00100000001")),
        "serving network": element(83, bytes.fromhex("44f001")),
        "rat type": element(82, b"\x06"),
        "f-teid": f_teid(6, 0x2001, 0),
        "apn": element(71, b"\x07soracom\x02io\x06mnc010\x06mcc440\x04gprs"),
        "selection mode": element(128, b"\0"),
        "pdn type": element(99, bytes((pdn_type,))),
        "paa": element(79, bytes((pdn_type,)) + bytes(PAA_OCTETS.get(pdn_type, 0))),
        "apn restriction": element(127, b"\0"),
        "ambr": element(72, (1_000).to_bytes(4, "big") + (2_000).to_bytes(4, "big")),
        "pco": element(78, bytes.fromhex("80000d00001000")),
        "bearer context": element(93, b"".join(bearer_context())),
        "recovery": element(3, b"\x07"),
    }  # fmt: skip


def create_session(sequence: int = 1, *, pdn_type: int = 1, paa: bytes | None = None) -> bytes:
    elements = create_elements(pdn_type=pdn_type)
    if paa is not None:
        elements["paa"] = paa
    return message2(32, 0, sequence, b"".join(elements.values()))


def modify_bearer(teid: int, sequence: int, *, address: bytes = SGW_ADDRESS) -> bytes:
    bearer = element(73, b"\x05") + f_teid(4, 0x1002, 1, address)
    body = f_teid(6, 0x2002, 0, address) + element(93, bearer) + element(3, b"\x07")
    return message2(34, teid, sequence, body)


def delete_session(teid: int, sequence: int) -> bytes:
    return message2(36, teid, sequence, element(73, b"\x05"))
