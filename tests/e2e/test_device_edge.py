"""Third-party device programs, inside a tunnel that a third-party SGSN created.

mosquitto_pub in both versions, mqtt.js, curl, bash for TCP, a UDP socket: each gets its answer after the
stream has accepted; so do an empty message, a retained one, one of QoS 2 in 3.1.1, and a body that curl sends
after 100 Continue. The ledger is independent: a capture outside the gateway is compared with meter and bill,
the devices' answers with the records that Amazon's client reads from the stream.
"""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.telemetry import Metric
from loadtest.api_client import ApiClient
from loadtest.external import kinesis, sgsnemu
from loadtest.external.namespaces import GATEWAY, Lab
from loadtest.outcome import payloads_by_imsi, quantity_of_csv, read_stream, total_of_stats
from loadtest.serving import ROOT, Served
from loadtest.simulation.ledger import ledger_of_capture

MQTT, MESSAGES, METADATA = "100.127.127.100", "100.127.65.43", "100.127.100.127"
STREAM = "devices"
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


async def publish_one(version: str, topic: str, *what: str, qos: int) -> None:
    """One message; mosquitto_pub ends well when its handshake is whole."""
    await run("mosquitto_pub", "-V", version, "-h", MQTT, "-q", str(qos), "-t", topic, *what)


async def post(text: str, *options: str) -> str:
    url = f"http://{MESSAGES}/"
    return await run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", text, *options, url)


async def metadata(path: str) -> str:
    return await run("curl", "-sS", f"http://{METADATA}{path}")


def udp(text: str) -> bytes:
    with socket.socket(type=socket.SOCK_DGRAM) as device:
        device.settimeout(5)
        device.sendto(text.encode(), (MESSAGES, 23_080))
        return device.recv(100)


async def publish_by_mqtt_js(lines: list[str]) -> None:
    """All at once; it ends when each was acknowledged."""
    script = """
        const [host, ...lines] = process.argv.slice(1)
        const client = require('mqtt').connect({ host, protocolVersion: 5, clientId: 'node' })
        client.on('error', (error) => { console.error(error); process.exit(1) })
        Promise.all(lines.map((line) => client.publishAsync('meters/2', line, { qos: 1 })))
            .then(() => client.endAsync())
    """
    await run("env", f"NODE_PATH={kinesis.MODULES}", "node", "-e", script, MQTT, *lines)


async def talk(customer: ApiClient, sim_id: str, imsi: str, *, has_node: bool) -> list[str]:
    """Everything a device may do; what it was acknowledged, in order."""
    by_mqtt_js = [f"mqtt.js {number}" for number in range(LINES // 2)] if has_node else []
    if has_node:
        await publish_by_mqtt_js(by_mqtt_js)
    lines = [f"mqtt {number}" for number in range(LINES)]
    await publish("mqttv311", "meters/1", lines[: LINES // 2])
    await publish("mqttv5", "meters/1", lines[LINES // 2 :])
    assert await post("by http") == "204"
    assert await post("asked first", "-H", "Expect: 100-continue", "--expect100-timeout", "25") == "204"
    await publish_one("mqttv311", "meters/1", "-r", "-n", qos=1)
    await publish_one("mqttv5", "meters/1", "-n", qos=1)
    await publish_one("mqttv311", "meters/1", "-m", "once", qos=2)
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
    by_names = ["by http", "asked first", "", "", "once", "by tcp", "once more", "by udp"]
    return [*by_mqtt_js, *lines, *by_names]


async def attach_and_talk(lab: Lab, folder: Path, server: str) -> None:
    """Runs inside the radio network's namespace; the stream is at the gateway's address, or embedded."""
    with ExitStack() as parts:
        endpoint = ""
        if server:
            served = kinesis.served(server, prefix=lab.command(lab.gw), host=GATEWAY)
            endpoint = parts.enter_context(served)
            await kinesis.create_stream(endpoint, STREAM, shards=2)
        await attach_and_compare(lab, folder, endpoint)


async def attach_and_compare(lab: Lab, folder: Path, endpoint: str) -> None:
    stream = {"AIRLOOM_STREAM__KINESIS": STREAM, "AIRLOOM_STREAM__ENDPOINT": endpoint}
    served = lab.served(
        folder / "var",
        {
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_API__SANDBOX_PLMN": "90170",  # sgsnemu loses the leading zeros of an IMSI
            "AIRLOOM_EDGE__DEVICE_NETWORK": "on",
            **({**stream, **kinesis.ENVIRONMENT} if endpoint else {}),
        },
    )
    await served.start()
    try:
        async with ApiClient(served.endpoint) as customer:
            await customer.sign_up("edge@example.com", "Aa1-device-laboratory")
            sim = await customer.new_sim()
            imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
            async with sgsnemu.captured(lab, folder / "ran.pcap"):
                async with sgsnemu.attached(lab, folder, imsi=imsi, apn="soracom.io"):
                    acknowledged = await talk(customer, sim["simId"], imsi, has_node=bool(endpoint))
                    await asyncio.sleep(QUIET_S)
            ledger = ledger_of_capture(folder / "ran.pcap", GATEWAY)
            totals = await total_of_stats(customer, sim["simId"])
            seen = {"upload": ledger.up_bytes.total(), "download": ledger.down_bytes.total()}
            assert totals == seen, f"metered {totals}, captured {seen}"
            billed = quantity_of_csv(await customer.month_csv(datetime.now(UTC).strftime("%Y%m")))
            assert billed == ledger.total_bytes
        if endpoint:
            records = await kinesis.read_stream(endpoint, STREAM)
        else:
            records = await read_stream(served.data_dir)
        stored = payloads_by_imsi(records)[imsi]
        assert [payload.decode() for payload in stored] == acknowledged
        assert await counted(served, len(acknowledged)) == len(acknowledged)
    finally:
        await served.stop()


async def counted(served: Served, expected: int) -> float:
    """What the meter of messages counted; it reads the stream a little later."""
    value = 0.0
    for _ in range(100):
        metrics = await asyncio.to_thread(served.metrics)
        value = metrics[f"{Metric.MESSAGES_COUNTED.metric_name}_total"]
        if value >= expected:
            break
        await asyncio.sleep(0.1)
    return value


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.program("sgsnemu", "tcpdump", "ip", "mosquitto_pub", "curl", "bash")
@pytest.mark.parametrize("server", ["", pytest.param("kinesalite", marks=pytest.mark.kinesis)])
def test_devices_by_others_from_inside_a_tunnel(server: str, tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from loadtest.external.namespaces import Lab\n"
        "from tests.e2e.test_device_edge import attach_and_talk\n"
        "asyncio.run(attach_and_talk(Lab.entered(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))"
    )
    with Lab() as lab:
        ended = subprocess.run(
            lab.command(lab.ran, sys.executable, "-c", program, lab.mark, str(tmp_path), server),
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=150,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
