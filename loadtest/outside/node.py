"""A served Airloom of some checkout, and a customer of its API by the standard library."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

READY_S = 60.0
PASSWORD = "Aa1-outside-tries"  # noqa: S105 - of a lab


class NotReady(Exception):
    """It ended, or said nothing for ``READY_S``; the message is what it said last."""


class Node:
    """`airloom serve` of ``tree``, with ``address`` for GTP and RADIUS; ``settings`` are variables."""

    def __init__(self, tree: Path, data: Path, address: str, port: int, **settings: str) -> None:
        self.tree, self.data, self.address, self.port = tree, data, address, port
        self.file: Path | None = None
        self.settings = {"API__SANDBOX": "true", "USAGE__REPORT_INTERVAL_S": "0.5", **settings}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.stdout: list[str] = []

    def __enter__(self) -> "Node":
        """Serve, and wait until it is ready; raises ``NotReady``: nothing could be tried."""
        if not self.start():
            self.stop()
            raise NotReady(self.log.strip()[-200:] or "it ended without output")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What it runs with."""
        named = {
            "NODE__DATA_DIR": str(self.data / "var"),
            "GATEWAY__ADDRESS": self.address,
            "API__PORT": str(self.port),
            "CONTROL__PORT": str(self.port + 1_000),
            **({"METRICS__PORT": str(self.port + 2_000)} if self._has_metrics else {}),
        } | self.settings
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRLOOM_")},
            "PYTHONPATH": str(self.tree),
            **{f"AIRLOOM_{name}": value for name, value in named.items() if value},
        }

    @property
    def _module(self) -> str:
        """What `python -m` takes; an earlier version has another."""
        return "airloom" if (self.tree / "airloom").exists() else "core.cli"

    @property
    def _has_metrics(self) -> bool:
        """Whether metrics have a listener of their own; an earlier version does not know the key."""
        return any((self.tree / top / "app" / "measuring.py").exists() for top in ("airloom", "core"))

    @property
    def log(self) -> str:
        """What it said on stderr, in all its lives."""
        path = self.data / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, ready_s: float = READY_S) -> bool:
        """Start it; whether it said that it is ready."""
        self.data.mkdir(parents=True, exist_ok=True)
        file = ["--config", str(self.file)] if self.file else []
        with (self.data / "stderr").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, "serve", "--json", *file],
                stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment, cwd=self.data,
            )  # fmt: skip
        said: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self._process, said), daemon=True)
        self._reader.start()
        try:
            return bool(said.get(timeout=ready_s))
        except queue.Empty:
            return False

    def _read(self, process: "subprocess.Popen[str]", said: "queue.Queue[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.stdout.append(line)
                said.put(line)
        said.put("")

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
        if self._process is not None and self._reader is not None:
            self._process.wait(60)
            self._reader.join(10)

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """An `airloom` command with the node's configuration."""
        return subprocess.run(
            [sys.executable, "-m", self._module, *arguments], capture_output=True, text=True, timeout=60,
            env=self.environment | more, cwd=self.data, check=False,
        )  # fmt: skip

    @property
    def endpoint(self) -> str:
        """The API's."""
        return f"http://127.0.0.1:{self.port}"

    def metrics(self) -> dict[str, float]:
        """From wherever they are served: the control channel, the listener of their own, or the API."""
        for port in (self.port + 1_000, self.port + 2_000, self.port):
            status, text = fetch(f"http://127.0.0.1:{port}/metrics")
            if status == 200:
                rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
                return {name: float(value) for name, value in rows}
        return {}


def fetch(
    url: str,
    *,
    method: str = "GET",
    body: Any = None,
    headers: dict[str, str] | None = None,
    wait_s: float = 30,
) -> tuple[int, str]:
    """Status (0: no answer) and text."""
    status, text, _ = fetch_whole(url, method=method, body=body, headers=headers, wait_s=wait_s)
    return status, text


def fetch_whole(
    url: str, *, method: str, body: Any = None, headers: dict[str, str] | None = None, wait_s: float = 30
) -> tuple[int, str, Mapping[str, str]]:
    """Status (0: no answer), text and headers."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data=data, method=method, headers=headers or {})  # noqa: S310 - http
    if data is not None:
        asked.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(asked, timeout=wait_s) as answer:  # noqa: S310 - our own node
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace"), dict(error.headers)
    except (OSError, TimeoutError):
        return 0, "", {}


class ApiClient:
    """An operator made in the sandbox."""

    def __init__(self, node: Node, email: str) -> None:
        self._node, self.email = node, email
        self._headers: dict[str, str] = {}
        body = {"email": email, "password": PASSWORD, "authKeyId": "keyId-any", "authKey": "secret-any"}
        self.use(self.call("POST", "/sandbox/init", body)[1])

    def use(self, credentials: Any) -> None:
        """Go on with these."""
        self.operator_id = credentials["operatorId"]
        self._headers = {
            "X-Soracom-API-Key": credentials["apiKey"],
            "X-Soracom-Token": credentials["token"],
        }

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded answer."""
        status, text = fetch(
            f"{self._node.endpoint}/v1{path}", method=method, body=body, headers=self._headers
        )
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def sim(self, *, speed_class: str = "s1.8xfast") -> "Sim":
        """Another SIM, registered."""
        made = self.call("POST", "/sandbox/subscribers/create", {"subscription": "plan01s"})[1]
        secret = {"registrationSecret": made["registrationSecret"]}
        registered = self.call("POST", f"/subscribers/{made['imsi']}/register", secret)[1]
        sim_id = registered["simId"]
        self.call("POST", f"/sims/{sim_id}/update_speed_class", {"speedClass": speed_class})
        return Sim(sim_id, made["imsi"])

    def octets(self, sim_id: str) -> tuple[int, int]:
        """Octets in the statistics API so far, up and down."""
        now = int(time.time())
        path = f"/stats/air/sims/{sim_id}?from={now - 86_400}&to={now + 60}&period=day"
        rows = self.call("GET", path)[1]
        up = down = 0
        for row in rows if isinstance(rows, list) else ():
            for figures in row["dataTrafficStatsMap"].values():
                up += figures.get("uploadByteSizeTotal", 0)
                down += figures.get("downloadByteSizeTotal", 0)
        return up, down


class Sim:
    """A SIM's names."""

    def __init__(self, sim_id: str, imsi: str) -> None:
        self.sim_id, self.imsi = sim_id, imsi
