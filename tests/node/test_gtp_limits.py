"""What a partner and a SIM may ask for counts once, by whichever versions; a reload forgives nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network

from core.domain.apn import Apn
from gtp.admission import OF_ONE_SIM_MAX
from gtp.partners import Partner
from gtp.service import GtpFrontEnd
from gtp.v1.cause import Cause as CauseV1
from gtp.v2.cause import Cause as CauseV2
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import run_virtual
from loadtest.simulation.world import World
from tests.support import gtp as v1
from tests.support import gtp2 as v2

HERE = ("127.0.1.1", 2123)
BURST = 20
PARTNER = Partner("loud", (IPv4Network("127.0.1.0/24"),), requests_per_s=1.0, burst=BURST)


def play(script: Callable[[GtpFrontEnd, list[bytes]], Awaitable[None]]) -> None:
    """The front end of a whole node, and its answers to all peers."""

    async def main() -> None:
        peer = {"name": PARTNER.name, "networks": ["127.0.1.0/24"], "requests_per_s": 1.0, "burst": BURST}
        stage = World(0, Plan(sims=2, partners=(peer,)))
        await stage.start_node()
        front_end, sent = (await stage.holding()).gtp, list[bytes]()
        with front_end.tapped(lambda data, _, is_incoming: None if is_incoming else sent.append(data)):
            await script(front_end, sent)
        await stage.finish()

    run_virtual(main)


def echo(number: int) -> bytes:
    """By turns of version 1 and of version 2."""
    return (
        v1.message(1, 0, number, b"") if number % 2 else v2.message2(1, None, number, v2.element(3, b"\x07"))
    )


def test_a_partner_that_mixes_versions_has_one_rate() -> None:
    async def script(front_end: GtpFrontEnd, sent: list[bytes]) -> None:
        for number in range(4 * BURST):
            front_end._receive(echo(number), HERE)
        assert len(sent) == BURST

    play(script)


def test_a_reload_refills_no_bucket() -> None:
    async def script(front_end: GtpFrontEnd, sent: list[bytes]) -> None:
        for number in range(2 * BURST):
            front_end._receive(echo(number), HERE)
        front_end.serve(apns=[Apn("soracom.io")], allowed_peers=(), partners=[PARTNER])
        before = len(sent)
        for number in range(2 * BURST):
            front_end._receive(echo(number), HERE)
        assert len(sent) == before, "the burst is spent"
        await asyncio.sleep(5)
        for number in range(2 * BURST):
            front_end._receive(echo(number), HERE)
        assert len(sent) == before + 5, "it is filled by time alone"

    play(script)


def test_a_sim_that_mixes_versions_has_one_number_of_requests_under_way() -> None:
    async def script(front_end: GtpFrontEnd, sent: list[bytes]) -> None:
        for number in range(1, OF_ONE_SIM_MAX + 1):
            front_end._receive(v1.create_request(number), HERE)
        assert sent == []
        address = bytes((127, 0, 1, 1))
        elements = v2.create_elements() | {
            "f-teid": v2.f_teid(6, 0x2001, 0, address),
            "bearer context": v2.element(93, b"".join(v2.bearer_context()).replace(v2.SGW_ADDRESS, address)),
        }
        front_end._receive(v2.message2(32, 0, 9, b"".join(elements.values())), HERE)
        (refusal,) = sent
        assert (refusal[1], refusal[16]) == (33, CauseV2.GTP_C_ENTITY_CONGESTION)
        front_end._receive(v1.create_request(10), HERE)
        assert sent[1][13] == CauseV1.NO_RESOURCES_AVAILABLE

    play(script)
