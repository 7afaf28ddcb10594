"""Devices by others, from inside a tunnel that an SGSN by others made: mosquitto_pub in both versions, curl,
bash for TCP, a UDP socket. Each gets its answer after the stream accepted; what the capture counted is what
is metered.
"""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.checks import payloads_by_imsi, read_stream, total_of_stats
from loadtest.customer import Customer
from loadtest.ledger import ledger_of_capture
from loadtest.parts import sgsnemu
from loadtest.parts.namespaces import GATEWAY, Lab
from loadtest.serving import ROOT, Served

MQTT, MESSAGES, METADATA = "100.127.127.100", "100.127.65.43", "100.127.100.127"
LINES = 200
QUIET_S = 0.5
"""What a kernel still says of a closed connection comes before the detach: after it, it is not forwarded."""


async def run(*argv: str, given: bytes = b"") -> str:
    """A program's output; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(process.communicate(given), 30)
    assert process.returncode == 0, f"{argv}: {printed.decode()}"
    return printed.decode()


async def publish(version: str, topic: str, lines: list[str]) -> None:
    await run(
        "mosquitto_pub", "-V", version, "-h", MQTT, "-q", "1", "-i", "meter", "-t", topic, "-l",
        given="".join(f"{line}\n" for line in lines).encode(),
    )  # fmt: skip


async def post(text: str) -> str:
    url = f"http://{MESSAGES}/"
    return await run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", text, url)


async def metadata(path: str) -> str:
    return await run("curl", "-sS", f"http://{METADATA}{path}")


def udp(text: str) -> bytes:
    with socket.socket(type=socket.SOCK_DGRAM) as device:
        device.settimeout(5)
        device.sendto(text.encode(), (MESSAGES, 23_080))
        return device.recv(100)


async def talk(customer: Customer, sim_id: str, imsi: str) -> list[str]:
    """Everything a device may do; what it was acknowledged, in order."""
    lines = [f"mqtt {number}" for number in range(LINES)]
    await publish("mqttv311", "meters/1", lines[: LINES // 2])
    await publish("mqttv5", "meters/1", lines[LINES // 2 :])
    assert await post("by http") == "204"
    script = f"exec 3<>/dev/tcp/{MESSAGES}/23080; printf 'by tcp\\r\\nonce more\\n' >&3; head -n 2 <&3"
    assert (await run("bash", "-c", script)).split() == ["200", "200"]
    assert await asyncio.to_thread(udp, "by udp") == b"200"
    assert await metadata("/v1/subscriber.imsi") == "You are not allowed to access Metadata Server."
    group = await customer.call("POST", "/groups", {"tags": {}})
    path = f"/groups/{group['groupId']}/configuration/SoracomAir"
    await customer.call("PUT", path, [{"key": "metadata", "value": {"enabled": True, "readonly": True}}])
    await customer.call("POST", f"/sims/{sim_id}/set_group", {"groupId": group["groupId"]})
    assert await metadata("/v1/subscriber.imsi") == imsi
    assert await metadata("/v1/subscriber.nothing") == "Specified key does not exist."
    return [*lines, "by http", "by tcp", "once more", "by udp"]


async def attach_and_talk(lab: Lab, folder: Path) -> None:
    """Runs inside the radio network's namespace."""
    served = Served(
        folder / "var",
        gateway_address=GATEWAY,
        api_port=8080,
        api_host=GATEWAY,
        prefix=tuple(lab.command(lab.gw)),
        environment={
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_API__SANDBOX_PLMN": "90170",  # sgsnemu loses the leading zeros of an IMSI
            "AIRLOOM_EDGE__INSIDE": "on",
        },
    )
    await served.start()
    try:
        async with Customer(served.endpoint) as customer:
            await customer.sign_up("edge@example.com", "Aa1-device-laboratory")
            sim = await customer.new_sim()
            imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
            async with sgsnemu.captured(lab, folder / "ran.pcap"):
                async with sgsnemu.attached(lab, folder, imsi=imsi, apn="soracom.io"):
                    acknowledged = await talk(customer, sim["simId"], imsi)
                    await asyncio.sleep(QUIET_S)
            ledger = ledger_of_capture(folder / "ran.pcap", GATEWAY)
            totals = await total_of_stats(customer, sim["simId"])
            seen = {"upload": ledger.up_bytes.total(), "download": ledger.down_bytes.total()}
            assert totals == seen, f"metered {totals}, captured {seen}"
        stored = payloads_by_imsi(await read_stream(served.data_dir))[imsi]
        assert [payload.decode() for payload in stored] == acknowledged
    finally:
        await served.stop()


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.program("sgsnemu", "tcpdump", "ip", "mosquitto_pub", "curl", "bash")
def test_devices_by_others_from_inside_a_tunnel(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from loadtest.parts.namespaces import Lab\n"
        "from tests.e2e.test_device_edge import attach_and_talk\n"
        "asyncio.run(attach_and_talk(Lab.entered(sys.argv[1]), Path(sys.argv[2])))"
    )
    with Lab() as lab:
        ended = subprocess.run(
            lab.command(lab.ran, sys.executable, "-c", program, lab.mark, str(tmp_path)),
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=150,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
