"""IPv6 by real programs: a kernel as the device takes its prefix from our advertisement, pings and downloads.

The device is a network namespace with a TUN device of its own; the radio network is this process, and counts
every octet by the IP header's own length. All of it ends with the test.
"""

import asyncio
import fcntl
import hashlib
import os
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from core.adapters.network import UdpNetwork
from core.domain.values import replace
from core.ports.network import Address
from gtp.userplane.counter_table import open_file
from gtp.userplane.reasons import Drop, Signal
from gtp.userplane.tun import Tun
from gtp.userplane.udp import UdpUserPlane, inner_addresses
from tests.contract.test_user_plane import PLATFORM, POOL, PREFIXES, ManualClock, g_pdu, ipv6_bearer, own_link
from tests.e2e.test_tun import run_in_child

pytestmark = [pytest.mark.e2e, pytest.mark.root]
GATEWAY, PEER, SERVER = "127.0.0.1", "127.0.1.1", "2606:4700::7"
TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001
PACKET_BYTES_MAX = 65_535
WAIT_S = 20.0
PING = ("ping", "-6", "-n")
PINGS = 5
MTU_BYTES = 1_300
"""Of the tunnel; the kernel's way to it takes more, so that the plane itself says what is too big."""
BODY = hashlib.shake_256(b"body").digest(500_000)
LINK_LOCAL = b"\xfe\x80"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces and TUN devices")
def test_a_real_device_gets_its_prefix_pings_and_downloads_and_every_byte_is_counted() -> None:
    assert run_in_child("device_of_ipv6", "unshare", "--net", module="tests.e2e.test_tun_ipv6") == "counted\n"


class Radio:
    """The device's tunnel end: its TUN on one side, GTP-U on the other, and an account of both directions."""

    def __init__(self, local_teid: int) -> None:
        self.counted: Counter[str] = Counter()
        self.link: Counter[str] = Counter()
        self._teid = local_teid
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("=16sH22x", b"phone0", IFF_TUN_NO_PI))

    async def start(self) -> None:
        self._socket = await UdpNetwork().open_datagram((PEER, 2152), self._down)
        asyncio.get_running_loop().add_reader(self.fd, self._up)

    def _up(self) -> None:
        with suppress(BlockingIOError):
            packet = os.read(self.fd, PACKET_BYTES_MAX)
            self._count("up", packet)
            assert self._socket.send(g_pdu(self._teid, packet), (GATEWAY, 2152))

    def _down(self, data: bytes, _source: Address) -> None:
        self._count("down", data[8:])
        os.write(self.fd, data[8:])

    def _count(self, way: str, packet: bytes) -> None:
        """Messages on the link itself, from either side, are not traffic."""
        is_link = packet[8:10] == LINK_LOCAL or not any(packet[8:24])
        into = self.link if is_link else self.counted
        into[f"{way}_bytes"] += 40 + int.from_bytes(packet[4:6], "big")
        into[f"{way}_packets"] += 1


@asynccontextmanager
async def device_namespace(link: IPv6Address) -> AsyncIterator[list[str]]:
    """A namespace to which ``phone0`` has moved, with this link-local address; the command that enters it."""
    holder = await asyncio.create_subprocess_exec("unshare", "--net", "sleep", "120")
    try:
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.01)
        await run("ip", "link", "set", "phone0", "netns", str(holder.pid))
        enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        await run(*enter, "ip", "link", "set", "phone0", "addrgenmode", "none")
        for device in ("lo", "phone0"):
            await run(*enter, "ip", "link", "set", device, "up")
        await run(*enter, "ip", "address", "add", f"{link}/64", "dev", "phone0", "nodad")
        yield enter
    finally:
        holder.kill()
        await holder.wait()


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed, _ = await process.communicate()
    assert process.returncode == 0, (command, printed.decode())
    return printed.decode()


async def prefixes_of(enter: list[str]) -> set[IPv6Network]:
    """The networks of the device's addresses."""
    words = (await run(*enter, "ip", "-6", "-o", "address", "show", "dev", "phone0")).split()
    return {IPv6Interface(word).network for word in words if "/" in word}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    await writer.drain()
    writer.close()


def device_of_ipv6() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{SERVER}/128", "dev", "lo", "nodad"], check=True)
    asyncio.run(_device_of_ipv6())


async def _device_of_ipv6() -> None:
    one = replace(ipv6_bearer(), peer_address=PEER)
    radio = Radio(one.local_teid)
    with tempfile.TemporaryDirectory() as folder:
        plane = UdpUserPlane(
            counter_table=open_file(Path(folder) / "usage.slots", capacity=4),
            clock=ManualClock(),
            network=UdpNetwork(),
            address=IPv4Address(GATEWAY),
            ue_pool=POOL,
            platform_network=PLATFORM,
            prefixes=PREFIXES,
            mtu_bytes=MTU_BYTES,
            tuns={"": Tun("airloom9", addresses=inner_addresses(POOL, PREFIXES))},
        )
        await plane.start()
        for _ in range(2):
            plane.unroute(POOL)
            plane.route(POOL)
            plane.route(POOL)
        plane.install(one)
        await radio.start()
        server = await asyncio.start_server(serve, SERVER, 8_080)
        async with asyncio.timeout(WAIT_S), device_namespace(own_link(one)) as enter, server:
            while one.ue_prefix not in await prefixes_of(enter):  # noqa: ASYNC110 - the kernel's
                await asyncio.sleep(0.05)
            pinged = await run(*enter, *PING, "-i", "0.01", "-c", str(PINGS), SERVER)
            assert f"{PINGS} received" in pinged, pinged
            told = await run(*enter, "cat", "/proc/sys/net/ipv6/conf/phone0/mtu")
            assert int(told) == MTU_BYTES, "by the advertisement"
            large = await run(*enter, *PING, "-i", "0.3", "-c", "3", "-s", "4000", SERVER)
            assert "2 received" in large, (
                "the first answer is too big, and the server's kernel gets packet too big"
            )
            file = Path(folder) / "body"
            await run(*enter, "curl", "-sS", "-g", "-o", str(file), f"http://[{SERVER}]:8080/")
            assert file.read_bytes() == BODY
        assert plane.drops[Drop.TOO_BIG] == plane.signals[Signal.TOO_BIG_SENT] > 0
        for _ in range(100):  # the last packets may still be on their way between the two
            counters = plane.counters(one.session_id)
            assert counters is not None
            volume = counters.current.volume
            metered = {
                "up_bytes": volume.up_bytes,
                "up_packets": volume.up_packets,
                "down_bytes": volume.down_bytes,
                "down_packets": volume.down_packets,
            }
            if radio.counted == metered:
                break
            await asyncio.sleep(0.02)
        assert radio.counted == metered, (radio.counted, radio.link, plane.drops)
        assert volume.down_bytes > len(BODY)
        assert radio.link["down_packets"] >= 1, "the advertisement"
        await plane.aclose()
    print("counted")  # noqa: T201 - the parent reads it
