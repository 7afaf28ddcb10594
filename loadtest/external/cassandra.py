"""Real Cassandra nodes, from the jars that Maven Central has (JDK 17): for tests, faults and benchmarks.

Rules: nodes are children on 127.0.0.1, 127.0.0.2, … or another network's first addresses, gone with their
block, their data in a temporary folder; one token each, written on first start, so that three share the ring
evenly and none waits to join. `./run test` fetches the jars beside the Python packages.
"""

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from core.adapters.store.cassandra import CassandraAddress, migrate
from loadtest.folders import temporary_folder
from loadtest.serving import free_tcp_port

JARS = Path(sys.prefix) / "cassandra"
DATACENTER = "datacenter1"
"""What SimpleSnitch calls it."""
HEAP = "640M"
READY_S = 120.0
QUICK_START = "-XX:TieredStopAtLevel=1"
"""Half the CPU until a node serves and has its tables, 16 s instead of 28 s, and slower from then on: for a
node whose time to answer no test depends on.
"""
RING_DELAY_S = 2.0
"""How long a node takes another one that appeared for one that is still joining."""
TOKENS = (-9223372036854775808, -3074457345618258603, 3074457345618258602)
OPTIONS_FRAME, SUPPORTED = bytes((4, 0, 0, 0, 5, 0, 0, 0, 0)), 6
"""What a CQL server answers before anything else (native protocol v4, §4.1.3, §4.2.4)."""
EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.base/java.lang.ref",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.management/com.sun.jmx.remote.security",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.unsupported/sun.misc",
)
OPENS = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.compiler/com.sun.tools.javac",
    "jdk.management/com.sun.management.internal",
)
CONFIGURATION = """
cluster_name: airloom
num_tokens: 1
initial_token: {token}
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
listen_address: {host}
rpc_address: {host}
storage_port: {storage_port}
native_transport_port: {port}
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "{seed}:{storage_port}"}}]
commitlog_sync: group
commitlog_sync_group_window: 2ms
commitlog_segment_size: 16MiB
commitlog_total_space: 256MiB
auto_snapshot: false
concurrent_compactors: 1
file_cache_size: 64MiB
memtable_heap_space: 128MiB
memtable_offheap_space: 64MiB
disk_access_mode: mmap_index_only
"""
LOGGING = """
<configuration>
  <appender name="file" class="ch.qos.logback.core.FileAppender">
    <file>{folder}/system.log</file>
    <encoder><pattern>%-5level %date{{ISO8601}} %F:%L %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="file"/></root>
</configuration>
"""


def why_not() -> str:
    """Why no node can be run here; empty when one can."""
    java = shutil.which("java")
    if java is None:
        return "needs the program java (Debian package openjdk-17-jre-headless)"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    if not re.search(r'version "(11|17)\.', said):
        return f"Cassandra 5 needs Java 11 or 17, here is {said.splitlines()[0] if said else 'none'}"
    if not any(JARS.glob("cassandra-all-*.jar")):
        return "needs Cassandra's jars (./run test fetches them by Maven)"
    return ""


class Node:
    """One node: it may be killed and started again on what it left on disk."""

    def __init__(
        self, number: int, folder: Path, *, network: str, port: int, storage_port: int, flags: tuple[str, ...]
    ) -> None:
        self.host = f"{network}.{number + 1}"
        self.port = port
        self._number = number
        self._flags = flags
        self._folder = folder / f"node-{number}"
        self._process: subprocess.Popen[bytes] | None = None
        conf = self._folder / "conf"
        (conf / "triggers").mkdir(parents=True)
        text = CONFIGURATION.format(
            host=self.host,
            seed=f"{network}.1",
            port=port,
            storage_port=storage_port,
            token=TOKENS[number],
        )
        (conf / "cassandra.yaml").write_text(text)
        (conf / "logback.xml").write_text(LOGGING.format(folder=self._folder))

    def start(self) -> None:
        """Begin to start; ``wait`` for it."""
        conf = self._folder / "conf"
        java = shutil.which("java") or "java"
        flags = [*self._flags, *(f"--add-exports={each}=ALL-UNNAMED" for each in EXPORTS)]
        flags += [f"--add-opens={each}=ALL-UNNAMED" for each in OPENS]
        settings = {
            "jdk.attach.allowAttachSelf": "true",
            "io.netty.tryReflectionSetAccessible": "true",
            "cassandra-foreground": "yes",
            "cassandra.config": f"file://{conf}/cassandra.yaml",
            "cassandra.storagedir": f"{self._folder}/storage",
            "cassandra.triggers_dir": f"{conf}/triggers",
            "cassandra.consistent.rangemovement": "false",
            "cassandra.ring_delay_ms": str(int(RING_DELAY_S * 1_000)),
            "cassandra.skip_wait_for_gossip_to_settle": "0",
            "cassandra.jmx.local.port": str(free_tcp_port("127.0.0.1", 0)),
            "cassandra.available_processors": "2",
            "logback.configurationFile": f"file://{conf}/logback.xml",
            "java.net.preferIPv4Stack": "true",
        }
        flags += [f"-D{name}={value}" for name, value in settings.items()]
        (agent,) = JARS.glob("jamm-*.jar")
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(java, f"-javaagent:{agent}", *flags, f"-Xms{HEAP}", f"-Xmx{HEAP}", "-Xss512k"),
                    *("-XX:+UseG1GC", "-XX:MaxDirectMemorySize=256M", "-XX:+PerfDisableSharedMem"),
                    *("-cp", f"{conf}:{JARS}/*", "org.apache.cassandra.service.CassandraDaemon"),
                ],
                stdout=output,
                stderr=output,
                cwd=self._folder,
            )

    def wait(self) -> None:
        """Until CQL is served; raises ``RuntimeError`` with the log's end."""
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Cassandra at {self.host} did not start:\n{self._log_end()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It stands still, with its connections open."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """As an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.sendall(OPTIONS_FRAME)
                return connection.recv(9)[4:5] == bytes((SUPPORTED,))
        except OSError:
            return False

    def _log_end(self) -> str:
        files = (self._folder / "output", self._folder / "system.log")
        return "\n".join(each.read_text(errors="replace")[-2_000:] for each in files if each.exists())


@contextmanager
def served(nodes: int = 1, *, network: str = "127.0.0", is_quick: bool = False) -> Iterator[list[Node]]:
    """So many nodes run inside; ``is_quick``: see ``QUICK_START``. Blocks until they serve, some 10 s."""
    port, storage_port = free_tcp_port("127.0.0.1", 0), free_tcp_port("127.0.0.1", 0)
    flags = (QUICK_START,) if is_quick else ()
    with temporary_folder("cassandra") as folder:
        made = [
            Node(n, folder, network=network, port=port, storage_port=storage_port, flags=flags)
            for n in range(nodes)
        ]
        try:
            for node in made:  # one after the other: each must see the ring of those before it
                node.start()
                node.wait()
            if nodes > 1:
                time.sleep(2 * RING_DELAY_S)
            yield made
        finally:
            for node in made:
                node.kill()


def address_of(nodes: list[Node], keyspace: str) -> CassandraAddress:
    """The configuration of a client."""
    hosts = tuple(node.host for node in nodes)
    return CassandraAddress(hosts, keyspace, DATACENTER, port=nodes[0].port)


async def stored(stack: AsyncExitStack, keyspace: str) -> dict[str, str]:
    """A node with Airloom's tables for as long as ``stack`` is open; what points an Airloom to it, and to a
    folder for exports and dead letters.
    """
    (node,) = await asyncio.to_thread(stack.enter_context, served())
    await migrate(address=address_of([node], keyspace), replication_factor=1)
    objects = stack.enter_context(temporary_folder("objects"))
    return {
        "AIRLOOM_OBJECTS__FOLDER": str(objects),
        "AIRLOOM_STORE__CASSANDRA": node.host,
        "AIRLOOM_STORE__PORT": str(node.port),
        "AIRLOOM_STORE__KEYSPACE": keyspace,
    }
