"""The udp plane with the kernel as its internet side, in a network namespace that ends with the test."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from core.adapters.network import UdpNetwork
from core.domain.apn import Apn
from core.errors import ConfigurationError
from core.ports.network import Address
from gtp.userplane.counter_table import open_file
from gtp.userplane.tun import Tun
from gtp.userplane.udp import UdpUserPlane
from loadtest.bench.userplane_children import inner_packet
from tests.contract.test_user_plane import PLATFORM, POOL, ManualClock, bearer, g_pdu

pytestmark = [pytest.mark.e2e, pytest.mark.root]
GATEWAY, PEER, SERVER = "127.0.0.1", "127.0.1.1", "198.51.100.7"
WAIT_S = 10.0
PACKETS = 200


def run_in_child(function: str, *before: str, module: str = "tests.e2e.test_tun") -> str:
    code = f"from {module} import {function}; {function}()"
    done = subprocess.run(
        [*before, sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace and a TUN device")
def test_packets_go_through_the_kernel_and_back_and_every_byte_is_counted() -> None:
    assert run_in_child("there_and_back", "unshare", "--net") == f"{PACKETS} there and back\n"


def test_without_privilege_one_line_says_so() -> None:
    message = run_in_child("open_without_privilege")
    assert message.count("\n") == 1
    assert "gateway.tun airloom9" in message
    assert "NET_ADMIN" in message or "no /dev/net/tun" in message


def there_and_back() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{SERVER}/32", "dev", "lo"], check=True)
    asyncio.run(_there_and_back())


async def _there_and_back() -> None:
    one = bearer(peer=PEER)
    with tempfile.TemporaryDirectory() as folder:
        plane = UdpUserPlane(
            counter_table=open_file(Path(folder) / "usage.slots", capacity=4),
            clock=ManualClock(),
            network=UdpNetwork(),
            address=IPv4Address(GATEWAY),
            ue_pool=POOL,
            platform_network=PLATFORM,
            tuns={"": Tun("airloom9", addresses=(POOL[1],))},
        )
        await plane.start()
        for _ in range(2):
            plane.unroute(POOL)
            plane.route(POOL)
            plane.route(POOL)
        plane.install(one)
        back: list[bytes] = []
        peer = await UdpNetwork().open_datagram((PEER, 2152), lambda data, _source: back.append(data))

        def echo(data: bytes, source: Address) -> None:
            assert source == (str(one.ue_address), 5_000), "the server sees the device's own address"
            assert server.send(data, source)

        server = await UdpNetwork().open_datagram((SERVER, 9), echo)
        sent = g_pdu(one.local_teid, inner_packet(str(one.ue_address), SERVER, 100))
        async with asyncio.timeout(WAIT_S):
            for number in range(1, PACKETS + 1):
                assert peer.send(sent, (GATEWAY, 2152))
                while len(back) < number:  # noqa: ASYNC110 - the condition is the kernel's
                    await asyncio.sleep(0)
        assert {(data[4:8], len(data), socket.inet_ntoa(data[20:24])) for data in back} == {
            (one.peer_teid.to_bytes(4, "big"), 108, SERVER)
        }
        plane.serve([Apn("a", mtu_bytes=1_300), Apn("b", mtu_bytes=1_310)], 1_300)
        show = await asyncio.create_subprocess_exec("ip", "link", "show", "airloom9", stdout=subprocess.PIPE)
        assert b" mtu 1310 " in (await show.communicate())[0], "the most that an access point has"
        counters = plane.counters(one.session_id)
        assert counters is not None
        volume = counters.current.volume
        assert (volume.up_bytes, volume.down_bytes) == (100 * PACKETS, 100 * PACKETS)
        assert (volume.up_packets, volume.down_packets) == (PACKETS, PACKETS)
        peer.close()
        server.close()
        await plane.aclose()
    print(f"{len(back)} there and back")  # noqa: T201 - the parent reads it


def open_without_privilege() -> None:
    if os.geteuid() == 0:
        os.setuid(65_534)
    try:
        Tun("airloom9", addresses=(POOL[1],))
    except ConfigurationError as error:
        print(error)  # noqa: T201 - the parent reads it
