"""EAP by programs of others before a served Airloom: a device without a SIM gets no port."""

import asyncio
import subprocess
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.test_radius_clients import NAS, SECRET, Laboratory, laboratory

pytestmark = [pytest.mark.e2e, pytest.mark.program("radclient")]
REALM = "wlan.mnc010.mcc440.3gppnetwork.org"
WAIT_S = 90.0
SUPPLICANT = """
ap_scan=0
network={{
    key_mgmt=IEEE8021X
    eap={method}
    identity="{identity}"
    password="whatever"
    eapol_flags=0
}}
"""
HOSTAPD = """
interface={interface}
driver=wired
ieee8021x=1
eap_reauth_period=0
use_pae_group_addr=0
own_ip_addr={nas}
radius_client_addr={nas}
nas_identifier=switch-1
auth_server_addr={server}
auth_server_port=1812
auth_server_shared_secret={secret}
radius_auth_req_attr=30:s:soracom.io
"""


@pytest.mark.program("eapol_test")
@pytest.mark.parametrize(("method", "prefix"), [("AKA", "0"), ("MD5", ""), ("MD5", "0"), ("PEAP", "")])
async def test_eapol_test_is_rejected(tmp_path: Path, method: str, prefix: str) -> None:
    """Its identity is a SIM that may be on, and its access point one that is served."""
    async with laboratory(tmp_path) as lab:
        identity = f"{prefix}{lab.imsi}@{REALM}"
        config = tmp_path / "eapol.conf"
        config.write_text(SUPPLICANT.format(method=method, identity=identity))
        tester = await asyncio.create_subprocess_exec(
            "eapol_test", "-c", str(config), "-a", lab.served.gateway_address, "-s", SECRET,
            "-A", NAS, "-t", "10", "-N", "30:s:soracom.io", stdout=PIPE, stderr=STDOUT,
        )  # fmt: skip
        printed = (await tester.communicate())[0].decode()
        assert tester.returncode != 0
        assert "code=3 (Access-Reject)" in printed, printed
        assert "CTRL-EVENT-EAP-FAILURE" in printed, "EAP-Failure is in the Access-Reject"
        assert "Access-Accept" not in printed
        good = await lab.access()
        assert "Received Access-Accept" in good, "the SIM itself is good"


@pytest.mark.root
@pytest.mark.program("hostapd")
@pytest.mark.program("wpa_supplicant")
async def test_hostapd_opens_no_port_for_a_device_without_a_sim(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab, AsyncExitStack() as parts:
        wire = await parts.enter_async_context(wire_to_a_device())
        hostapd, supplicant = tmp_path / "hostapd.conf", tmp_path / "supplicant.conf"
        hostapd.write_text(
            HOSTAPD.format(interface=wire.switch, nas=NAS, server=lab.served.gateway_address, secret=SECRET)
        )
        supplicant.write_text(SUPPLICANT.format(method="MD5", identity=f"0{lab.imsi}@{REALM}"))
        log = tmp_path / "hostapd.log"
        await parts.enter_async_context(running("hostapd", "-d", "-f", str(log), str(hostapd)))
        device = await parts.enter_async_context(
            running(
                *("ip", "netns", "exec", wire.device, "wpa_supplicant", "-D", "wired"),
                *("-i", "eth0", "-c", str(supplicant)),
            )
        )
        await printed_until(device, "CTRL-EVENT-EAP-FAILURE")
        printed = log.read_text(errors="replace")
        assert "from RADIUS server: EAP Failure" in printed, printed
        assert " authorizing port" not in printed
        assert await rejections(lab) >= 1


async def rejections(lab: Laboratory) -> float:
    metrics = await asyncio.to_thread(lab.served.metrics)
    labels = 'answer="authentication_not_supported",client="127.0.3.0/24"'
    return metrics[f"airloom_radius_answers_total{{{labels}}}"]


class Wire:
    """A veth pair: one end is the switch's port, the other the device's, in a namespace of its own."""

    switch = "airloom-eap"
    device = "airloom-eap-device"


@asynccontextmanager
async def wire_to_a_device() -> AsyncIterator[Wire]:
    def ip(*words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words], check=check, capture_output=True)

    wire = Wire()
    ip("netns", "add", wire.device)
    try:
        ip("link", "add", wire.switch, "type", "veth", "peer", "name", "eth0", "netns", wire.device)
        ip("link", "set", wire.switch, "up")
        ip("-n", wire.device, "link", "set", "eth0", "up")
        yield wire
    finally:
        ip("link", "del", wire.switch, check=False)
        ip("netns", "del", wire.device)


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def printed_until(process: Process, wanted: str) -> None:
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(WAIT_S):
        while wanted not in printed:
            line = await process.stdout.readline()
            assert line, printed
            printed += line.decode(errors="replace")
