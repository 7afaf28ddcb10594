"""Credentials that cannot be checked admit no SIM."""

import os
from typing import cast

import pytest

from core.domain.account import Group
from core.domain.session import SessionEventKind
from core.domain.values import replace
from loadtest.simulation.world import APN, OPERATOR
from radius import attributes as a
from radius.codec import (
    Attribute,
    Code,
    encode_access_request,
    hide_password,
    is_authentic,
    vendor_attribute,
)
from tests.node.test_radius_front_end import Stage
from tests.support.radius import SECRETS, RadiusStage, imsi_of, play

MICROSOFT = (311).to_bytes(4, "big")
EAP_IDENTITY = bytes((2, 77, 0, 9, 1)) + b"0440"
UNPROVABLE: dict[str, list[Attribute]] = {
    "EAP-Response/Identity": [(a.EAP_MESSAGE, EAP_IDENTITY)],
    "EAP in two attributes": [(a.EAP_MESSAGE, EAP_IDENTITY[:4]), (a.EAP_MESSAGE, EAP_IDENTITY[4:])],
    "EAP-Start": [(a.EAP_MESSAGE, b"")],
    "EAP of a wrong length": [(a.EAP_MESSAGE, bytes((2, 1, 9, 9, 1)))],
    "MS-CHAP": [
        vendor_attribute(MICROSOFT + b"\x0b", b"c" * 8),
        vendor_attribute(MICROSOFT + b"\x01", b"r" * 50),
    ],
    "MS-CHAPv2": [
        vendor_attribute(MICROSOFT + b"\x0b", b"c" * 16),
        vendor_attribute(MICROSOFT + b"\x19", b"r" * 50),
    ],
    "MS-CHAP behind another": [(a.VENDOR_SPECIFIC, MICROSOFT + b"\x07\x03x" + b"\x01\x04rr")],
    "MS-CHAP of a wrong length": [(a.VENDOR_SPECIFIC, MICROSOFT + b"\x19\xffr")],
    "ARAP": [(a.ARAP_PASSWORD, b"x" * 16)],
    "Digest": [(a.DIGEST_RESPONSE, b"d" * 32)],
    "Digest of the drafts": [(a.DIGEST_RESPONSE_DRAFT, b"d" * 32)],
    "PAP of 15 octets": [(a.USER_PASSWORD, b"x" * 15)],
    "PAP of 144 octets": [(a.USER_PASSWORD, b"x" * 144)],
    "PAP of none": [(a.USER_PASSWORD, b"")],
    "CHAP of 5 octets": [(a.CHAP_PASSWORD, b"x" * 5)],
    "PAP twice": [(a.USER_PASSWORD, b"x" * 16), (a.USER_PASSWORD, b"y" * 16)],
    "PAP and CHAP": [(a.USER_PASSWORD, b"x" * 16), (a.CHAP_PASSWORD, b"y" * 17)],
}


@pytest.mark.parametrize("with_group", [False, True])
def test_what_cannot_be_checked_is_rejected(monkeypatch: pytest.MonkeyPatch, with_group: bool) -> None:
    """The identity that it names, with or without the network's 3GPP-IMSI."""

    async def script(plain: Stage) -> None:
        stage = cast(RadiusStage, plain)
        if with_group:
            await _demand_password(stage, "open sesame")
        nas = await stage.raw("127.0.3.21")
        for name, shown in UNPROVABLE.items():
            for who in ([], [imsi_of(stage.imsi)]):
                user: Attribute = (a.USER_NAME, f"0{stage.imsi}@wlan.mnc010.mcc440.3gppnetwork.org".encode())
                answer = await nas.ask(user, (a.CALLED_STATION_ID, APN.encode()), *who, *shown)
                assert answer is not None and answer.code == Code.ACCESS_REJECT, name
                assert answer.signature_at, name
                failures = answer.all(a.EAP_MESSAGE)
                if a.EAP_MESSAGE in dict(shown):
                    first = shown[0][1]
                    assert failures == [bytes((4, first[1] if first else 0, 0, 4))], name
                    assert answer.text(a.REPLY_MESSAGE) == ""
                else:
                    assert (failures, answer.text(a.REPLY_MESSAGE)) == (
                        [],
                        "authentication method not supported",
                    ), name
        assert stage.node.held["vg-1"].gateway.allocated["addresses"] == 0
        assert stage.answers == {("alpha", "authentication_not_supported"): 2 * len(UNPROVABLE)}
        page = await stage.node._world.store.sessions.events(
            stage.sims[0].sim.sim_id, since=stage.clock._epoch, until=stage.clock.now()
        )
        assert {(each.kind, each.cause) for each in page.items} == {
            (SessionEventKind.REJECTED, "authentication_not_supported")
        }

    play(monkeypatch, script)


async def _demand_password(stage: RadiusStage, password: str) -> None:
    store, now = stage.node._world.store, stage.clock.now()
    secret = {"SoracomAir": {"authentication": {"username": stage.imsi, "password": password}}}
    await store.groups.put(Group("group", OPERATOR, now, now, secret))
    await store.sims.put(replace(stage.sims[0].sim, group_id="group"))


@pytest.mark.parametrize(
    ("says_imsi", "checks", "password_is", "code"),
    [
        (True, True, "none", Code.ACCESS_ACCEPT),  # the network knows the SIM
        (False, True, "none", Code.ACCESS_REJECT),
        (False, False, "none", Code.ACCESS_ACCEPT),  # by configuration
        (False, True, "open sesame", Code.ACCESS_ACCEPT),
        (False, True, "another", Code.ACCESS_REJECT),
        (False, False, "another", Code.ACCESS_REJECT),
    ],
)
def test_a_password_beside_a_mere_name_must_be_checked(
    monkeypatch: pytest.MonkeyPatch,
    says_imsi: bool,
    checks: bool,
    password_is: str,
    code: Code,
) -> None:
    async def script(plain: Stage) -> None:
        stage = cast(RadiusStage, plain)
        if password_is != "none":
            await _demand_password(stage, password_is)
        nas = await stage.raw("127.0.3.21")
        authenticator = os.urandom(16)
        said = [
            (a.USER_NAME, stage.imsi.encode()),
            (a.CALLED_STATION_ID, APN.encode()),
            (a.USER_PASSWORD, hide_password(b"open sesame", authenticator, SECRETS["127.0.3"])),
        ]
        if says_imsi:
            said.append(imsi_of(stage.imsi))
        data = encode_access_request(1, authenticator, said, nas.secret)
        answer = await nas.send(data, 1812)
        assert answer is not None and answer.code == code
        assert is_authentic(answer, nas.secret, authenticator)

    play(monkeypatch, script, alpha={"check_passwords": checks})


def test_eap_without_a_message_authenticator_gets_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a client that need not sign (RFC 3579 §3.2)."""

    async def script(plain: Stage) -> None:
        stage = cast(RadiusStage, plain)
        nas = await stage.raw("127.0.3.21")
        body = bytes((a.USER_NAME, 17)) + stage.imsi.encode() + bytes((a.EAP_MESSAGE, 11)) + EAP_IDENTITY
        data = bytes((1, 1)) + (20 + len(body)).to_bytes(2, "big") + os.urandom(16) + body
        assert await nas.send(data, 1812) is None
        assert stage.node.held["vg-1"].radius.dropped["no_message_authenticator"] == 1

    play(monkeypatch, script, alpha={"require_message_authenticator": False})


@pytest.mark.parametrize(
    ("kind", "code"),
    [(0, Code.ACCESS_ACCEPT), (3, Code.ACCESS_ACCEPT), (1, 3), (2, 3), (4, 3), (0xFFFF_FFFF, 3)],
)
def test_an_address_type_without_ipv4_is_rejected(
    monkeypatch: pytest.MonkeyPatch, kind: int, code: int
) -> None:
    async def script(plain: Stage) -> None:
        stage = cast(RadiusStage, plain)
        nas = await stage.raw("127.0.3.21")
        pdp_type = vendor_attribute(a.TGPP_PDP_TYPE, kind.to_bytes(4, "big"))
        apn: Attribute = (a.CALLED_STATION_ID, APN.encode())
        answer = await nas.ask((a.USER_NAME, stage.imsi.encode()), apn, pdp_type)
        assert answer is not None and answer.code == code

    play(monkeypatch, script)
