"""The RADIUS codec: any octets are a packet or refused; pyrad reads what we write, and we what it writes."""

import hashlib
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrad.dictionary import Dictionary
from pyrad.packet import AccessRequest, AccountingRequest, AcctPacket, AuthPacket

from core.errors import LocalProtocolError, RemoteProtocolError
from radius import attributes as a
from radius.codec import (
    ATTRIBUTES_MAX,
    PACKET_BYTES_MAX,
    Code,
    Packet,
    decode,
    encode_access_request,
    encode_attributes,
    encode_response,
    encode_signed_request,
    hide_password,
    is_answer,
    is_authentic,
    is_chap_answer,
    is_signed,
    reveal_password,
    vendor_attribute,
)

SECRET = b"a shared secret"
AUTHENTICATOR = bytes(range(16))
DICTIONARY = Dictionary(
    StringIO(
        "ATTRIBUTE User-Name 1 string\nATTRIBUTE User-Password 2 string\nATTRIBUTE CHAP-Password 3 octets\n"
        "ATTRIBUTE Framed-IP-Address 8 ipaddr\nATTRIBUTE Class 25 octets\n"
        "ATTRIBUTE Acct-Status-Type 40 integer\n"
        "ATTRIBUTE Acct-Input-Octets 42 integer\nATTRIBUTE Message-Authenticator 80 octets\n"
        "VENDOR 3GPP 10415\nBEGIN-VENDOR 3GPP\nATTRIBUTE 3GPP-IMSI 1 string\nEND-VENDOR 3GPP\n"
    )
)

values = st.tuples(
    st.integers(1, 255).filter(lambda t: t != a.MESSAGE_AUTHENTICATOR), st.binary(max_size=253)
)


def request(*attributes: tuple[int, bytes]) -> Packet:
    return decode(encode_access_request(7, AUTHENTICATOR, attributes, SECRET))


@given(st.binary(max_size=300))
def test_any_octets_are_a_packet_or_refused(data: bytes) -> None:
    try:
        packet = decode(data)
    except RemoteProtocolError:
        return
    is_authentic(packet, SECRET)
    is_signed(packet, SECRET)
    reveal_password(packet, SECRET)
    is_chap_answer(packet, b"password")
    packet.first(a.TGPP_IMSI)
    packet.text(a.USER_NAME)


def is_whole(value: bytes) -> bool:
    """Whether a Vendor-Specific attribute holds one of its vendor, and nothing else."""
    return len(value) >= 6 and value[5] == len(value) - 4


@given(
    st.lists(values.filter(lambda each: each[0] != a.VENDOR_SPECIFIC or not is_whole(each[1])), max_size=14)
)
def test_attributes_come_back_in_order(attributes: list[tuple[int, bytes]]) -> None:
    packet = request(*attributes)
    assert packet.data[38:] == b"".join(bytes((kind, len(value) + 2)) + value for kind, value in attributes)
    assert packet.data[20] == a.MESSAGE_AUTHENTICATOR, "first, against forged prefixes"
    plain = {kind: value for kind, value in packet.firsts.items() if isinstance(kind, int)}
    assert plain.keys() == {a.MESSAGE_AUTHENTICATOR, *(kind for kind, _ in attributes)}
    assert len(plain) + len(packet.others) == 1 + len(attributes)
    for kind in plain.keys() - {a.MESSAGE_AUTHENTICATOR}:
        assert packet.all(kind) == [value for each, value in attributes if each == kind]
    assert is_authentic(packet, SECRET) is True
    assert is_authentic(packet, SECRET + b"!") is False


inner = st.one_of(
    st.tuples(st.sampled_from([1, 3, 20, 21]), st.binary(max_size=9)).map(
        lambda each: bytes((each[0], len(each[1]) + 2)) + each[1]
    ),
    st.binary(max_size=5),
)
vendors = st.sampled_from([a.VENDOR_3GPP, a.VENDOR_MICROSOFT, bytes(4)])
vendor_specific = st.one_of(
    st.tuples(vendors, st.lists(inner, max_size=4)).map(lambda each: each[0] + b"".join(each[1])),
    st.binary(max_size=9),
)


@given(st.lists(vendor_specific, max_size=9))
def test_the_first_of_each_of_a_vendors_attributes_is_found(raw: list[bytes]) -> None:
    packet = request(*((a.VENDOR_SPECIFIC, value) for value in raw))
    expected: dict[bytes, bytes] = {}
    for value in raw:  # as RFC 2865 §5.26 recommends them: vendor, then type, length and value, repeated
        at = 4
        while at + 2 <= len(value) and 2 <= value[at + 1] <= len(value) - at:
            expected.setdefault(value[:4] + value[at : at + 1], value[at + 2 : at + value[at + 1]])
            at += value[at + 1]
    assert {kind: value for kind, value in packet.firsts.items() if isinstance(kind, bytes)} == expected
    assert packet.all(a.VENDOR_SPECIFIC) == [value for value in raw if not is_whole(value)]
    assert packet.first(a.USER_NAME) is None, "a vendor 0 stands for none"


@given(st.data())
def test_one_flipped_bit_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(encode_access_request(7, AUTHENTICATOR, [(a.USER_NAME, b"440100000000001")], SECRET))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    try:
        packet = decode(bytes(whole))
    except RemoteProtocolError:
        return
    assert is_authentic(packet, SECRET) is not True


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\1\0\x13" + bytes(15),
        b"\1\1\0\x16" + bytes(16) + b"\1\1",
        b"\1\1\0\x16" + bytes(16) + b"\1\3",
        b"\1\1\0\x15" + bytes(16) + b"\1",
        b"\1\1\x10\x01" + bytes(4_093),
        b"\1\1\0\x38" + bytes(16) + (b"\x50\x12" + bytes(16)) * 2,
    ],
)
def test_lengths_that_do_not_add_up_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_bounds() -> None:
    many = b"\1\2" * (ATTRIBUTES_MAX + 1)
    with pytest.raises(RemoteProtocolError):
        decode(b"\1\1" + (20 + len(many)).to_bytes(2, "big") + bytes(16) + many)
    with pytest.raises(LocalProtocolError):
        encode_access_request(1, AUTHENTICATOR, [(1, bytes(253))] * 17, SECRET)
    with pytest.raises(LocalProtocolError):
        encode_access_request(1, AUTHENTICATOR, [(1, bytes(254))], SECRET)
    assert PACKET_BYTES_MAX == 4_096
    padded = decode(b"\1\1\0\x14" + bytes(16) + b"padding")
    assert (padded.firsts, padded.others) == ({}, [])


@given(st.binary(min_size=1, max_size=128).filter(lambda p: not p.endswith(b"\0")))
def test_passwords_come_back(password: bytes) -> None:
    hidden = hide_password(password, AUTHENTICATOR, SECRET)
    assert reveal_password(request((a.USER_PASSWORD, hidden)), SECRET) == password


@pytest.mark.parametrize("length", [0, 15, 144])
def test_a_password_of_no_length_it_may_have_is_none(length: int) -> None:
    assert reveal_password(request((a.USER_PASSWORD, bytes(length))), SECRET) is None


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\x28\xaf", b"\0\0\x28\xaf\1\0", b"\0\0\x28\xaf\1\1", b"\0\0\x28\xaf\1\x20abc"]
)
def test_a_broken_vendor_attribute_is_nobodys(raw: bytes) -> None:
    packet = request((a.VENDOR_SPECIFIC, raw), vendor_attribute(a.TGPP_IMSI, b"440100000000001"))
    assert packet.first(a.TGPP_IMSI) == b"440100000000001"


# -- the oracle -------------------------------------------------------------------------------------------


def test_we_read_what_pyrad_asks() -> None:
    asked = AuthPacket(
        code=AccessRequest,
        id=9,
        secret=SECRET,
        authenticator=AUTHENTICATOR,
        dict=DICTIONARY,
        message_authenticator=True,
    )
    asked["User-Name"] = "440100000000001"
    asked["User-Password"] = asked.PwCrypt("open sesame")
    asked["3GPP-IMSI"] = "440100000000001"
    packet = decode(asked.RequestPacket())
    assert is_authentic(packet, SECRET) is True
    assert packet.text(a.USER_NAME) == "440100000000001"
    assert reveal_password(packet, SECRET) == b"open sesame"
    assert packet.first(a.TGPP_IMSI) == b"440100000000001"


def test_pyrad_verifies_what_we_answer() -> None:
    asked = AuthPacket(code=AccessRequest, id=9, secret=SECRET, authenticator=AUTHENTICATOR, dict=DICTIONARY)
    asked["User-Name"] = "someone"
    raw = asked.RequestPacket()
    answer = encode_response(
        Code.ACCESS_ACCEPT,
        decode(raw),
        encode_attributes([(a.FRAMED_IP_ADDRESS, bytes((10, 128, 0, 2))), (a.CLASS, b"0x41")]),
        SECRET,
    )
    reply = asked.CreateReply(packet=answer)
    assert asked.VerifyReply(reply, answer)
    assert reply.verify_message_authenticator(original_authenticator=asked.authenticator)
    assert reply["Framed-IP-Address"] == ["10.128.0.2"]
    assert is_answer(decode(answer), AUTHENTICATOR, SECRET)
    assert is_authentic(decode(answer), SECRET, AUTHENTICATOR) is True


def test_accounting_both_ways() -> None:
    asked = AcctPacket(code=AccountingRequest, id=3, secret=SECRET, dict=DICTIONARY)
    asked["Acct-Status-Type"] = 1
    asked["Acct-Input-Octets"] = 123
    packet = decode(asked.RequestPacket())
    assert is_signed(packet, SECRET)
    assert not is_signed(packet, SECRET + b"!")
    assert packet.integer(a.ACCT_INPUT_OCTETS) == 123
    ours = encode_signed_request(
        Code.ACCOUNTING_REQUEST, 4, [(a.ACCT_STATUS_TYPE, bytes((0, 0, 0, 2)))], SECRET
    )
    read = AcctPacket(packet=ours, secret=SECRET, dict=DICTIONARY)
    assert read["Acct-Status-Type"] == [2]
    assert read.VerifyAcctRequest()
    assert is_authentic(decode(ours), SECRET, bytes(16)) is True


def test_chap_by_challenge_and_by_authenticator() -> None:
    for challenge in (b"", bytes(range(16, 32))):
        digest = hashlib.md5(
            b"\x05" + b"open sesame" + (challenge or AUTHENTICATOR), usedforsecurity=False
        ).digest()
        extra = [(a.CHAP_CHALLENGE, challenge)] if challenge else []
        packet = request((a.CHAP_PASSWORD, b"\x05" + digest), *extra)
        assert is_chap_answer(packet, b"open sesame") is True
        assert is_chap_answer(packet, b"open") is False
    assert is_chap_answer(request((a.CHAP_PASSWORD, b"\x05")), b"open sesame") is False
    assert is_chap_answer(request(), b"open sesame") is None
