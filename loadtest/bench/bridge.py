"""The device edge against bridges behind a broker: the CPU of one message from MQTT into Kinesis.

Rules: the same devices publish to Airloom's edge, which acknowledges after Kinesis has accepted, and to
Mosquitto, which acknowledges at once and to which the peer subscribes. A bridge's cost is the CPU of its own
process: for Airloom the whole way, for a peer without its broker, whose cost is shown beside it. Bridges are
pinned to cpu 1, everything else to cpu 0. Kinesis is a server that accepts everything and counts records; the
count must be exact. The last row is Airloom's endpoint over a stream without cost.
"""

import argparse
import json as json_
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.bridge_children import LINGER_S, MQTT_PORT
from loadtest.bench.radius import cpu_seconds
from loadtest.bench.reporting import report
from loadtest.external import kinesis as kinesis_parts
from loadtest.folders import temporary_folder
from loadtest.serving import free_tcp_port

DEVICES, WINDOW, PAYLOAD_BYTES = 200, 32, 200
OTHERS_CPU, BRIDGE_CPU = 0, 1
OURS, NULL, BROKER = "127.0.3.210", "127.0.3.211", "127.0.3.212"
NODE, LITERAL = "mqtt.js and the AWS SDK", "aiomqtt and aioboto3"
FLOORS = {NODE: 2.0, LITERAL: 10.0}
"""How many times the peer's CPU a message must cost less."""
ENDPOINT_FLOOR = 50_000
LITERAL_SHARE = 10
"""That peer gets a tenth of the messages: it is so much slower."""
STORED_S = 120.0
MODULES = kinesis_parts.MODULES
CONFIGURATION = """
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
log_type none
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one bridge."""

    cpu_us: float
    broker_us: float
    per_s: float


class Child:
    """A process of the benchmark, which answers in lines of JSON."""

    def __init__(self, command: Sequence[str], ask: dict[str, Any] | None = None) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        self.pid = self._process.pid
        if ask is not None:
            self.tell(ask)
        assert self.answer() == "ready"

    def tell(self, ask: dict[str, Any]) -> None:
        """One line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json_.dumps(ask).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        return json_.loads(line)

    def end(self) -> None:
        """It is needed no more."""
        self._process.kill()
        self._process.communicate()


def _environment() -> dict[str, str]:
    node = {"NODE_PATH": str(MODULES), "NODE_NO_WARNINGS": "1", "AWS_REGION": kinesis_parts.REGION}
    return {**os.environ, **kinesis_parts.ENVIRONMENT, **node}


def _why_not() -> str:
    if len(os.sched_getaffinity(0)) < 2:
        return "needs two CPUs"
    programs = (("mosquitto", "mosquitto"), ("taskset", "util-linux"), ("node", "nodejs"))
    for program, package in programs:
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    missing = [name for name in ("mqtt", "@aws-sdk/client-kinesis") if not (MODULES / name).is_dir()]
    return f"needs the npm packages {', '.join(missing)} (./run test installs them)" if missing else ""


class Lab:
    """Everything that runs for as long as the benchmark does."""

    def __init__(self, parts: ExitStack) -> None:
        self._parts = parts
        port = free_tcp_port("127.0.0.1", 0)
        self.kinesis = f"http://127.0.0.1:{port}"
        self._start("kinesis", OTHERS_CPU, address=("127.0.0.1", port))
        self._broker = self._parts.enter_context(_mosquitto())
        devices = {"devices": DEVICES}
        self.bridges = {
            "ours": self._start("endpoint", BRIDGE_CPU, address=OURS, kinesis=self.kinesis, **devices),
            "endpoint": self._start("endpoint", BRIDGE_CPU, address=NULL, kinesis="", **devices),
        }
        self.devices = {
            host: self._start(
                "devices", OTHERS_CPU, host=host, port=MQTT_PORT, window=WINDOW, size=PAYLOAD_BYTES, **devices
            )
            for host in (OURS, NULL, BROKER)
        }

    def peer(self, name: str) -> Child:
        """A peer, subscribed; its caller ends it, for two at once would share the messages' cost."""
        if name == LITERAL:
            ask = {"cpu": BRIDGE_CPU, "host": BROKER, "port": MQTT_PORT, "kinesis": self.kinesis}
            return Child(_python("literal"), ask)
        script = Path(__file__).parent / "bridge_peer.cjs"
        pinned = ("taskset", "-c", str(BRIDGE_CPU), "node", str(script))
        return Child((*pinned, BROKER, str(MQTT_PORT), self.kinesis))

    def stored(self) -> int:
        """How many records Kinesis was given."""
        with urllib.request.urlopen(self.kinesis) as answer:  # noqa: S310 - our own, on the loopback
            return int(answer.read())

    def trial(self, pid: int, host: str, messages: int, *, is_stored: bool = True) -> Trial:
        """Publish, wait until all is stored, charge the bridge."""
        before, cpu, began = self.stored(), cpu_seconds(pid), time.monotonic()
        broker = cpu_seconds(self._broker)
        self.devices[host].tell({"each": messages // DEVICES})
        self.devices[host].answer()
        while is_stored and self.stored() - before < messages:
            if time.monotonic() - began > STORED_S:
                raise RuntimeError(f"{self.stored() - before} of {messages} messages were stored")
            time.sleep(LINGER_S)
        took = time.monotonic() - began
        time.sleep(0.2)
        if is_stored and self.stored() - before != messages:
            raise RuntimeError(f"{self.stored() - before} records of {messages} messages")
        cpu, broker = cpu_seconds(pid) - cpu, cpu_seconds(self._broker) - broker
        return Trial(cpu / messages * 1e6, broker / messages * 1e6, messages / took)

    def _start(self, name: str, cpu: int, **ask: Any) -> Child:
        child = Child(_python(name), {"cpu": cpu, **ask})
        self._parts.callback(child.end)
        return child


def _python(child: str) -> list[str]:
    return [sys.executable, "-m", "loadtest.bench.bridge_children", child]


@contextmanager
def _mosquitto() -> Iterator[int]:
    """The broker's process id."""
    with temporary_folder("bench") as folder:
        configuration = folder / "mosquitto.conf"
        configuration.write_text(CONFIGURATION.format(port=MQTT_PORT, host=BROKER))
        command = ("taskset", "-c", str(OTHERS_CPU), "mosquitto", "-c", str(configuration))
        with subprocess.Popen(command) as process:
            try:
                _wait_until_listening(BROKER)
                yield process.pid
            finally:
                process.kill()


def _wait_until_listening(host: str) -> None:
    for _ in range(100):
        try:
            socket.create_connection((host, MQTT_PORT), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens at {host}:{MQTT_PORT}")


def _measure(rounds: int, messages: int) -> list[dict[str, Any]]:
    """By turns; the first turn of each warms it up and is not counted."""
    trials: dict[str, list[Trial]] = {}
    with ExitStack() as parts:
        lab = Lab(parts)
        ours, endpoint = lab.bridges["ours"].pid, lab.bridges["endpoint"].pid
        for peer in FLOORS:
            share = messages // LITERAL_SHARE if peer == LITERAL else messages
            bridge = lab.peer(peer)
            try:
                for _ in range(rounds + 1):
                    trials.setdefault(f"ours {peer}", []).append(lab.trial(ours, OURS, messages))
                    trials.setdefault(peer, []).append(lab.trial(bridge.pid, BROKER, share))
            finally:
                bridge.end()
        for _ in range(rounds + 1):
            trial = lab.trial(endpoint, NULL, messages, is_stored=False)
            trials.setdefault("endpoint", []).append(trial)
    rows = [_row(peer, trials[f"ours {peer}"][1:], trials[peer][1:]) for peer in FLOORS]
    return [*rows, _endpoint_row(trials["endpoint"][1:])]


def _row(peer: str, ours: list[Trial], theirs: list[Trial]) -> dict[str, Any]:
    ratio = statistics.median(b.cpu_us / a.cpu_us for a, b in zip(ours, theirs, strict=True))
    return {
        "name": f"against {peer}",
        "ours": round(statistics.median(trial.cpu_us for trial in ours), 2),
        "peer": round(statistics.median(trial.cpu_us for trial in theirs), 2),
        "broker": round(statistics.median(trial.broker_us for trial in theirs), 2),
        "unit": "us CPU per message",
        "ratio": round(ratio, 2),
        "floor": FLOORS[peer],
        "ok": ratio >= FLOORS[peer],
        "ours_per_s": round(statistics.median(trial.per_s for trial in ours)),
        "peer_per_s": round(statistics.median(trial.per_s for trial in theirs)),
        "limits": ["devices, broker and Kinesis share one CPU and limit wall time"],
    }


def _endpoint_row(ours: list[Trial]) -> dict[str, Any]:
    per_cpu_s = statistics.median(1e6 / trial.cpu_us for trial in ours)
    return {
        "name": ENDPOINT_ROW,
        "ours": round(per_cpu_s),
        "peer": None,
        "unit": "messages per CPU second",
        "ratio": None,
        "floor": ENDPOINT_FLOOR,
        "ok": per_cpu_s >= ENDPOINT_FLOOR,
        "ours_per_s": round(statistics.median(trial.per_s for trial in ours)),
    }


ENDPOINT_ROW = "endpoint, QoS 1, PUBACK after a stream that costs nothing accepted"


def bench(*, json: bool = False, rounds: int = 5, messages: int = 40_000) -> dict[str, Any]:
    """Run, print and return ``{"bench", "machine", "rows", "ok"}``."""
    why = _why_not()
    floors = {**{f"against {peer}": floor for peer, floor in FLOORS.items()}, ENDPOINT_ROW: ENDPOINT_FLOOR}
    rows = [_row_without(*row, why) for row in floors.items()] if why else _measure(rounds, messages)
    return report("bridge", rows, _line, json=json)


def _row_without(name: str, floor: float, why: str) -> dict[str, Any]:
    none = dict.fromkeys(("ours", "peer", "ratio", "ok"))
    return {"name": name, **none, "unit": "us CPU per message", "floor": floor, "why": why}


def _line(row: dict[str, Any]) -> str:
    if "why" in row:
        return f"{row['name']}: not run, {row['why']}"
    kept = "kept" if row["ok"] else "MISSED"
    if row["peer"] is None:
        return (
            f"{row['name']}: {row['ours']:,} {row['unit']} (floor {row['floor']:,}: {kept});"
            f" by wall {row['ours_per_s']:,}/s"
        )
    return (
        f"{row['name']}: ours {row['ours']} us CPU, theirs {row['peer']} us CPU, ratio {row['ratio']}"
        f" (with their broker's {row['broker']} us: {(row['peer'] + row['broker']) / row['ours']:.2f})"
        f" (floor {row['floor']}: {kept}); by wall {row['ours_per_s']:,}/s and {row['peer_per_s']:,}/s,"
        f" {row['limits'][0]}"
    )


def main(argv: Sequence[str]) -> int:
    """`./run bench bridge`: exit code 1 only when a floor was measured and missed."""
    parser = argparse.ArgumentParser(prog="./run bench bridge", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object last")
    parser.add_argument("--rounds", type=int, default=5, help="counted trials of each bridge (default 5)")
    parser.add_argument("--messages", type=int, default=40_000, help="messages of one trial (default 40000)")
    options = parser.parse_args(argv)
    result = bench(json=options.json, rounds=options.rounds, messages=options.messages)
    return 1 if result["ok"] is False else 0
