"""`airloom serve` as a child: the demo adds up, kills lose nothing, hostile datagrams change nothing, and
what it cannot use it says in one line.
"""

import asyncio
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.own_socket import reachable
from core.services.customers.guesses import BOUNDS, Guess
from core.telemetry import Metric
from loadtest.api_client import ApiClient, ApiError
from loadtest.external.namespaces import why_not
from loadtest.peers.gtp import Refusal
from loadtest.peers.nas import Nas
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.ue import UserEquipment, UserEquipments
from loadtest.proofs.prove import prove_kills
from loadtest.serving import ROOT, Served, free_gateway_address, free_tcp_port, radius_clients
from tests.support.gtp import create_request, delete_request
from tests.support.gtp2 import create_session, delete_session, modify_bearer

pytestmark = pytest.mark.e2e

NAS_SECRET = "the secret of the NAS"


def served_in(folder: Path, **environment: str) -> Served:
    return Served(
        folder / "var",
        gateway_address=free_gateway_address(),
        api_port=free_tcp_port("127.0.0.1", 0),
        environment={"AIRLOOM_GATEWAY__SESSIONS_MAX": "64", **environment},
    )


def run_serve(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "airloom", "serve", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AIRLOOM_NODE__DATA_DIR": str(folder / "var"),
            "AIRLOOM_GATEWAY__ADDRESS": free_gateway_address(),
            "AIRLOOM_API__PORT": str(free_tcp_port("127.0.0.1", 0)),
            "AIRLOOM_METRICS__PORT": "0",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_first_command_that_serve_names_works_as_it_stands(tmp_path: Path) -> None:
    """With the configuration that serve itself was given, and nothing in the environment."""
    file = tmp_path / "an airloom.toml"
    file.write_text(
        f'[node]\ndata_dir = "{tmp_path / "var"}"\n[gateway]\naddress = "{free_gateway_address()}"\n'
        f"[api]\nport = {free_tcp_port('127.0.0.1', 0)}\n[metrics]\nport = 0\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRLOOM_")}
    with subprocess.Popen(
        [sys.executable, "-m", "airloom", "serve", "--config", str(file)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        assert node.stdout is not None
        try:
            assert node.stdout.readline().startswith("ready: ")
            command = node.stdout.readline().partition("create one: airloom ")[2]
            made = subprocess.run(
                [sys.executable, "-m", "airloom", *shlex.split(command)],
                env={**environment, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        finally:
            node.terminate()
    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout)["email"] == "you@example.com"


def test_the_demo_adds_up() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.demo", "--json", "--sims", "9", "--messages", "10"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert result["ok"] is True
    by = result["messages"].pop("by")
    assert result["messages"] == {"sent": 60, "acked": 60, "in_stream": 60, "lost": 0, "out_of_order": 0}
    assert result["attached"] == {"gtpv1": 3, "gtpv2": 3, "radius": 3}
    assert by == {"mqtt": 20, "http": 20, "tcp": 10, "udp": 10}
    octets = result["bytes"]
    assert octets["sent"] == octets["metered"] == octets["billed"] > 0
    assert set(result["leaks"].values()) == {0}


def test_the_demo_keeps_serving_and_its_commands_work() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest.demo", "--keep", "--sims", "6", "--messages", "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        printed = []
        for line in demo.stdout:
            printed.append(line.strip())
            if "Ctrl-C" in line:
                break
        file = Path(next(line for line in printed if line.startswith(". "))[2:])
        assert file.stat().st_mode & 0o077 == 0
        keys = dict(line.removeprefix("export ").split("=") for line in file.read_text().splitlines())
        commands = [line.split()[2:] for line in printed if line.startswith("./run airloom")]
        *asked, tail = commands
        answers = [json.loads(_airloom(*command, **keys)) for command in asked]
        messages = _airloom(*tail, "--no-follow", "--json").splitlines()
        demo.terminate()
    assert demo.returncode == 0
    assert [len(answer) for answer in answers] == [6, 3]
    assert sum(sim["sessionStatus"]["online"] for sim in answers[0]) == 6, "they are attached again"
    assert len([json.loads(message) for message in messages]) >= 4 * 3
    assert not file.parent.exists()


def _airloom(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "airloom", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_kills_under_traffic_lose_nothing() -> None:
    """A share of the fifty that `./run prove` does."""
    result = prove_kills(6, seed=5)
    assert result["ok"], result
    assert result["acknowledged"] > 0
    assert bool(result["far_seen_bytes"]) is not bool(why_not())


async def test_hostile_datagrams_change_nothing(tmp_path: Path) -> None:
    served = served_in(tmp_path)
    await served.start()
    try:
        await asyncio.to_thread(_bombard, served.gateway_address)
        sgsn = Sgsn(
            network=UdpNetwork(),
            address=free_gateway_address("127.0.1"),
            gateway=served.gateway_address,
            entropy=SystemEntropy(),
        )
        async with sgsn.running():
            assert await sgsn.echo() == 1
        metrics = await asyncio.to_thread(served.metrics)
        dropped = sum(value for name, value in metrics.items() if "datagrams_dropped" in name)
        assert dropped > 1_000
        assert metrics['airloom_sessions_open{access="gtpv1"}'] == 0
    finally:
        assert await served.stop() == 0


async def test_every_metric_moves_and_a_suspended_sim_is_cut_off(tmp_path: Path) -> None:
    served = served_in(
        tmp_path, AIRLOOM_USAGE__REPORT_INTERVAL_S="0.1", AIRLOOM_RADIUS__CLIENTS=radius_clients(NAS_SECRET)
    )
    await served.start()
    common: dict[str, Any] = {"network": UdpNetwork(), "entropy": SystemEntropy()}
    sgsn = Sgsn(address=free_gateway_address("127.0.1"), gateway=served.gateway_address, **common)
    nas = Nas(
        address=free_gateway_address("127.0.3"),
        authentication=(served.gateway_address, 1812),
        accounting=(served.gateway_address, 1813),
        secret=NAS_SECRET.encode(),
        **common,
    )
    try:
        async with ApiClient(served.endpoint) as customer, sgsn.running(), nas.running():
            await customer.sign_up("one@example.com", "Aa1-every-metric-moves")
            (sim_id, imsi), (other_id, other_imsi) = [await new_sim(customer) for _ in range(2)]
            at_nas = await nas.attach(imsi=other_imsi, apn="soracom.io")
            await customer.call("POST", f"/sims/{other_id}/suspend")
            await at_nas.stopped.wait()
            ue = await UserEquipment.attach(sgsn, sim_id=sim_id, imsi=imsi, apn="soracom.io")
            ues = UserEquipments([ue])
            await ues.start_programs(("tcp",))
            assert await ue.say(b"hello")
            assert await ue.device.send_raw(b"hello") == b"200"
            await asyncio.to_thread(_bombard, served.gateway_address)
            await guess_keys(customer)
            with socket.create_connection((served.api_host, served.api_port)) as stranger:
                stranger.sendall(b"no HTTP\r\n\r\n")
            assert await still_metrics(served) == set()

            await customer.call("POST", f"/sims/{sim_id}/suspend")
            assert await ue.device.send_raw(b"again", answer_s=0.5) is None
            with pytest.raises(Refusal):
                await sgsn.attach(imsi=imsi, apn="soracom.io")
            events = await customer.call("GET", f"/sims/{sim_id}/events/sessions")
            assert [event["event"] for event in events] == ["Rejected", "Deleted", "Created"]
            metrics = await asyncio.to_thread(served.metrics)
            assert metrics['airloom_sessions_open{access="gtpv1"}'] == 0
            assert metrics["airloom_connections_open"] == 0, "its connection ended with its session"
            assert "Traceback" not in (served.data_dir / "serve.log").read_text()
            assert ue.program is not None
            with pytest.raises((OSError, TimeoutError)):  # no node receives its last message
                async with asyncio.timeout(0.5):
                    await ue.program.aclose()
            await ues.aclose()
    finally:
        assert await served.stop() == 0


async def guess_keys(customer: ApiClient) -> None:
    """Until it is stopped; while it guesses it gets another try now and then."""
    tries, statuses = BOUNDS[Guess.AUTH_KEY]["both"].tries, [401]
    while statuses[-1] == 401 and len(statuses) < 3 * tries:
        with pytest.raises(ApiError) as caught:
            await customer.call("POST", "/auth", {"authKeyId": "keyId-1", "authKey": "secret-1"})
        statuses.append(caught.value.status)
    assert statuses[-1] == 429
    assert len(statuses) > 1 + tries


async def still_metrics(served: Served) -> set[str]:
    """The metrics that did not move within some seconds: messages are counted from the stream, a little
    later.

    The embedded stream takes everything: its dead letters are those of
    ``tests/unit/core/services/streaming/test_delivery.py``. Links are between nodes:
    ``tests/e2e/test_spread.py`` has some. A day is rolled up long after its end:
    ``tests/unit/core/services/metering/test_rollup.py``, a month closed:
    ``tests/unit/billing/test_closing.py``. No path fails: ``tests/node/test_gateway_operations.py``. Nobody
    claims another's session, no loop fails: ``tests/node/test_gtp_trust.py``, ``tests/node/test_faults.py``.
    No state machine refuses an event: ``tests/unit/mqtt_bridge/edge/test_mqtt.py``.
    """
    elsewhere = (
        Metric.TRANSITIONS_REFUSED,
        Metric.DEAD_LETTERS,
        Metric.EDGE_LINKS,
        Metric.EDGE_LINK_PACKETS,
        Metric.DAYS_ROLLED_UP,
        Metric.MONTHS_CLOSED,
        Metric.LATE_USAGE_BYTES,
        Metric.GTP_PATH_EVENTS,
        Metric.GTP_WAITING,
        Metric.GTP_CLAIMS,
        Metric.LOOP_FAULTS,
        Metric.LOOPS_STANDING,
    )
    still = {metric.metric_name for metric in Metric if metric not in elsewhere}
    for _ in range(50):
        metrics = await asyncio.to_thread(served.metrics)
        still -= {name for name in still if _total(metrics, name)}
        if not still:
            break
        await asyncio.sleep(0.1)
    return still


async def new_sim(customer: ApiClient) -> tuple[str, str]:
    sim = await customer.new_sim()
    return sim["simId"], next(iter(next(iter(sim["profiles"].values()))["subscribers"]))


def _total(metrics: dict[str, float], name: str) -> float:
    return sum(value for series, value in metrics.items() if series.startswith(name))


def _bombard(address: str) -> None:
    """Truncated, overlong, wrong-version and random datagrams on both ports."""
    dice = random.Random(7)
    whole = (
        create_request(),
        delete_request(1, 2),
        b"\x30\xff\0\x04\0\0\0\1abcd",
        create_session(),
        modify_bearer(1, 2),
        delete_session(1, 3),
    )
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        for _ in range(3_000):
            data = bytearray(dice.choice(whole))
            kind = dice.randrange(4)
            if kind == 0:
                data = data[: dice.randrange(len(data) + 1)]
            elif kind == 1:
                data += dice.randbytes(dice.randrange(1_300))
            elif kind == 2:
                data[dice.randrange(len(data))] = dice.randrange(256)
            else:
                data = bytearray(dice.randbytes(dice.randrange(1, 200)))
            for port in (2123, 2152):
                sender.sendto(bytes(data), (address, port))


def test_an_unknown_key_is_one_line(tmp_path: Path) -> None:
    ended = run_serve(tmp_path, AIRLOOM_API__PROT="1")
    assert ended.returncode == 78
    assert ended.stderr == (
        "airloom serve: api.prot: unknown key; known here: host, port, sandbox, sandbox_exposed,"
        " sandbox_plmn, proxies, connections_per_address, calls_per_s\n"
    )
    assert not (tmp_path / "var").exists()


def test_a_used_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run_serve(tmp_path, AIRLOOM_API__PORT=port)
    assert ended.returncode == 78
    assert len(ended.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "AIRLOOM_API__PORT" in ended.stderr


def test_a_used_gtp_port_is_one_line(tmp_path: Path) -> None:
    address = free_gateway_address()
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind((address, 2123))
        ended = run_serve(tmp_path, AIRLOOM_GATEWAY__ADDRESS=address)
    assert ended.returncode == 78
    assert len(ended.stderr.splitlines()) == 1
    assert f"{address}:2123" in ended.stderr


def test_a_folder_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    ended = run_serve(tmp_path)
    assert ended.returncode == 78
    assert len(ended.stderr.splitlines()) == 1
    assert "var" in ended.stderr


@pytest.mark.root
@pytest.mark.program("mount")
def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    mounted = tmp_path / "var"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)], check=True)
    try:
        ended = run_serve(tmp_path)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert ended.returncode == 78
    assert len(ended.stderr.splitlines()) == 1
    assert "free some space" in ended.stderr


@pytest.mark.parametrize("roles", ["gateway,api,meter", "api"])
async def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path, roles: str) -> None:
    served = served_in(tmp_path)
    await served.start()
    try:
        ended = await asyncio.to_thread(run_serve, tmp_path, AIRLOOM_NODE__ROLES=roles)
        async with ApiClient(served.endpoint) as customer:
            await customer.sign_up("first@example.com", "Aa1-the-first-goes-on")
    finally:
        await served.stop()
    assert ended.returncode == 78
    assert len(ended.stderr.splitlines()) == 1
    assert "in use by another process; stop that process, or give each node its own folder" in ended.stderr


async def test_what_a_node_keeps_and_says_is_its_operators_alone(tmp_path: Path) -> None:
    """No file that others can read, no secret in what it prints, no metrics and no accounts for customers."""
    metrics_port = free_tcp_port("127.0.0.1", 0)
    served = served_in(
        tmp_path,
        AIRLOOM_API__SANDBOX="false",
        AIRLOOM_METRICS__PORT=str(metrics_port),
        AIRLOOM_CONTROL__SECRET=SHARED,
    )
    served.control_port = free_tcp_port("127.0.0.1", 0)
    await served.start()
    try:
        told = _airloom("operators", "create", "--email", "a@b.c", **served.variables)
        made = json.loads(told)
        async with ApiClient(served.endpoint) as customer, aiohttp.ClientSession() as http:
            await customer.sign_in(made["auth_key_id"], made["auth_key"])
            assert await customer.call("GET", "/sims") == []
            exported = await customer.month_csv(datetime.now(UTC).strftime("%Y%m"))
            assert exported.startswith(b"\xef\xbb\xbf")
            with pytest.raises(ApiError, match="is not offered"):
                await customer.sign_up("b@b.c", "Aa1-no-sandbox-here")
            for url, status in (
                (f"{served.endpoint}/metrics", 404),
                (f"http://127.0.0.1:{served.control_port}/metrics", 404),
                (f"http://127.0.0.1:{served.control_port}/control/operators", 401),
                (f"http://127.0.0.1:{metrics_port}/metrics", 200),
                (f"http://127.0.0.1:{metrics_port}/control/operators", 404),
            ):
                async with http.get(url) as answer:
                    assert answer.status == status, url
        await served.kill()
        await served.start()
        readable = await asyncio.to_thread(_readable_by_others, served.data_dir)
        assert readable == []
        said = await asyncio.to_thread((served.data_dir / "serve.log").read_text)
        assert made["auth_key"] not in said + served.entries
        assert SHARED not in said + served.entries
        if os.getuid() == 0:  # only then there is another node to try
            assert await asyncio.to_thread(_nobody_reaches, served.data_dir) == "PermissionError"
    finally:
        assert await served.stop() == 0


SHARED = "the secret of all nodes here"


def _readable_by_others(folder: Path) -> list[str]:
    """The log is the harness's, not the node's."""
    found = [path for path in (folder, *folder.rglob("*")) if path.name != "serve.log"]
    assert len(found) > 10
    return [str(path) for path in found if not path.is_symlink() and path.stat().st_mode & 0o077]


def _nobody_reaches(folder: Path) -> str:
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); own = socket.socket(socket.AF_UNIX)\n"
        "try: own.connect(sys.argv[1])\nexcept OSError as error: print(type(error).__name__)"
    )
    with reachable(folder) as address:
        command = [sys.executable, "-c", script, address]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def test_sighup_has_the_configuration_read_again(tmp_path: Path) -> None:
    served = served_in(tmp_path)
    await served.start()
    assert served.process is not None
    served.process.send_signal(signal.SIGHUP)
    log = served.data_dir / "serve.log"
    for _ in range(200):
        if "configuration reloaded: nothing changed" in (told := await asyncio.to_thread(log.read_text)):
            break
        await asyncio.sleep(0.05)
    assert "configuration reloaded: nothing changed" in told
    assert served.process.returncode is None
    assert await served.stop() == 0
