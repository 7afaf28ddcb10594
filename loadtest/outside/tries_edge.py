"""Tries of devices: greedy questions and lines, rare but valid messages, damage to what was acknowledged."""

import base64
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

from loadtest.outside.gtp import Context, Peer
from loadtest.outside.inner import DNS, HTTP, MESSAGES, MQTT, Tcp, say, udp
from loadtest.outside.place import Echoes, Outcome, Place, percentile

CONNECT = bytes.fromhex("100e00044d5154540402003c00026530")


def greedy_question(size: int = 512) -> bytes:
    """As many questions as fit, each a pointer to one name of 120 labels."""
    name = b"\x01a" * 120 + b"\0"
    body = name + b"\0\1\0\1"
    count = (size - 12 - len(body)) // 6
    return struct.pack("!HHHHHH", 1, 0x100, 1 + count, 0, 0, 0) + body + (b"\xc0\x0c\0\1\0\1") * count


def dns_flood(place: Place) -> Outcome:
    """One SIM's questions do not stall others' Echo (H1)."""
    settings = place.partners(alpha=[2], beta=[3])
    with place.node(**settings) as node, place.peer(2) as peer, place.peer(3) as other:
        context = peer.create1(place.customer(node).sim().imsi)
        with Echoes(other) as before:
            time.sleep(2)
        with Echoes(other) as during:
            _ask_for(peer, context, 6.0, greedy_question(), 120)
        ok = not during.lost and 0 <= during.p99_ms < max(100.0, 10 * before.p99_ms)
        return {
            "ok": ok, "p99 before": before.p99_ms, "p99 ms": during.p99_ms, "answered": len(during.took),
            "lost": during.lost, "lease": "kept" if "lease" not in node.log else "in the log",
        }  # fmt: skip


def _ask_for(peer: Peer, context: Context, seconds: float, payload: bytes, rate: int) -> None:
    packet = udp((context.ue_address, 44_000), DNS, payload)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        peer.up(context.teid_user, packet)
        time.sleep(1 / rate)


def empty_lines(place: Place) -> Outcome:
    """A megabyte of line ends by one SIM does not stall others' Echo (M8)."""
    settings = place.partners(alpha=[2], beta=[3])
    with place.node(**settings) as node, place.peer(2) as peer, place.peer(3) as other:
        context = peer.create1(place.customer(node).sim().imsi)
        line = Tcp(peer, context, MESSAGES, 45_000)
        if not line.connect():
            return {"ok": False, "why": "no TCP"}
        with Echoes(other) as echoes:
            taken = line.send(b"\n" * 600_000, wait_s=12)
        ok = taken and not echoes.lost and 0 <= echoes.p99_ms < 100
        return {"ok": ok, "taken in": taken, "p99 ms": echoes.p99_ms, "max ms": percentile(echoes.took, 100)}


def many_connections(place: Place) -> Outcome:
    """A router with twelve devices behind one SIM."""
    with place.node() as node, place.peer() as peer:
        context = peer.create1(place.customer(node).sim().imsi)
        good = 0
        for number in range(12):
            line = Tcp(peer, context, MESSAGES, 45_000 + number)
            if line.connect() and line.send(b"%d\n" % number, wait_s=2):
                good += line.listen(2.0, until=lambda line=line: b"200" in line.received).startswith(b"200")
        return {"ok": good == 12, "answered": f"{good} of 12"}


def slow_connect(place: Place) -> Outcome:
    """An MQTT client that sends its CONNECT octet by octet is cut off in time."""
    with place.node() as node, place.peer() as peer:
        context = peer.create1(place.customer(node).sim().imsi)
        line = Tcp(peer, context, MQTT, 45_100)
        if not line.connect():
            return {"ok": False, "why": "no TCP"}
        began = time.monotonic()
        for octet in CONNECT[:-1]:
            line.send(bytes((octet,)), wait_s=1)
            line.listen(4.0, until=lambda: line.is_closed)
            if line.is_closed or time.monotonic() - began > 45:
                break
        return {"ok": line.is_closed, "seconds held": round(time.monotonic() - began)}


def empty_mqtt_payload(place: Place) -> Outcome:
    """MQTT 3.1.1: a payload of no octets is valid; the connection stays (QoS 0 and 1)."""
    with place.node() as node, place.peer() as peer:
        context = peer.create1(place.customer(node).sim().imsi)
        line = Tcp(peer, context, MQTT, 45_200)
        line.connect()
        line.send(CONNECT)
        line.listen(3.0, until=lambda: len(line.received) >= 4)
        topic = b"\x00\x0dhomes/1/state"
        line.send(b"\x31\x0f" + topic)
        line.send(b"\x32\x11" + topic + b"\x00\x07")
        line.send(b"\x32\x13" + topic + b"\x00\x08on")
        line.listen(5.0, until=lambda: b"\x40\x02\x00\x08" in line.received or line.is_closed)
        ok = b"\x40\x02\x00\x07" in line.received and b"\x40\x02\x00\x08" in line.received
        return {"ok": ok and not line.is_closed, "heard": line.received.hex(), "closed": line.is_closed}


def big_mqtt_payload(place: Place) -> Outcome:
    """A client that repeats an oversized message is not blocked permanently: later messages are
    acknowledged.
    """
    with place.node() as node, place.peer() as peer:
        context = peer.create1(place.customer(node).sim().imsi)
        line = Tcp(peer, context, MQTT, 45_300)
        line.connect()
        line.send(CONNECT)
        size = 2 + 1 + 2 + 140_000
        length = bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14))
        line.send(b"\x32" + length + b"\x00\x01a\x00\x05" + bytes(140_000))
        line.send(b"\x32\x07\x00\x01a\x00\x06on")
        line.listen(8.0, until=lambda: b"\x40\x02\x00\x06" in line.received or line.is_closed)
        return {"ok": b"\x40\x02\x00\x06" in line.received, "closed": line.is_closed}


def expect_continue(place: Place) -> Outcome:
    """`Expect: 100-continue` is answered at once."""
    with place.node() as node, place.peer() as peer:
        context = peer.create1(place.customer(node).sim().imsi)
        heard: dict[str, str | bool] = {}
        framings = {"length": "Content-Length: 5", "chunked": "Transfer-Encoding: chunked"}
        for number, (name, framing) in enumerate(framings.items()):
            line = Tcp(peer, context, HTTP, 45_400 + number)
            line.connect()
            head = f"POST / HTTP/1.1\r\nHost: unified.soracom.io\r\n{framing}\r\nExpect: 100-continue\r\n\r\n"
            line.send(head.encode())
            line.listen(3.0, until=lambda line=line: b"\r\n\r\n" in line.received)
            heard[f"{name} at once"] = line.received[:25].decode(errors="replace").strip()
            line.send(b"hello" if name == "length" else b"5\r\nhello\r\n0\r\n\r\n")
            line.listen(5.0, until=lambda line=line: b" 204 " in line.received)
            heard[f"{name} then"] = b" 204 " in line.received
        ok = all(
            str(heard[f"{n} at once"]).startswith("HTTP/1.1 100") and heard[f"{n} then"] for n in framings
        )
        return {"ok": ok, **heard}


def group_settings(place: Place) -> Outcome:
    """What a group's configuration cannot do is refused when it is set; what turns it off is not."""
    with place.node() as node:
        customer = place.customer(node)
        group = customer.call("POST", "/groups", {"tags": {"name": "g"}})[1]["groupId"]
        statuses = {}
        for namespace, key, value in (
            ("SoracomBeam", "mqtt://beam.soracom.io:1883", {"enabled": True, "destination": "mqtt://x"}),
            ("SoracomFunnel", "enabled", True),
            ("SoracomFunk", "enabled", True),
            ("SoracomHarvest", "enabled", True),
            ("SoracomAir", "noSuchKey", 1),
        ):
            path = f"/groups/{group}/configuration/{namespace}"
            statuses[namespace] = customer.call("PUT", path, [{"key": key, "value": value}])[0]
        path = f"/groups/{group}/configuration/SoracomHarvest"
        statuses["off"] = customer.call("PUT", path, [{"key": "enabled", "value": False}])[0]
        off = statuses.pop("off")
        return {"ok": set(statuses.values()) == {400} and off == 200, **statuses, "turned off": off}


def _sent(peer: Peer, context: Context, count: int, mark: str) -> list[str]:
    """Payloads that were acknowledged."""
    good = []
    for number in range(count):
        payload = f"{mark}-{number:05}"
        if (say(peer, context, payload.encode(), 46_000 + number) or b"").startswith(b"200"):
            good.append(payload)
    return good


def _stored(folder: Path) -> str:
    """What a reader finds: not what was put aside as it was (``.lost-1``)."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".lost" not in path.name]
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


def _found(payloads: list[str], text: str) -> int:
    return sum(base64.b64encode(each.encode()).decode() in text for each in payloads)


def flipped_bit(place: Place) -> Outcome:
    """One flipped bit costs one record, is said, and ends nothing (H2)."""
    with place.node(STREAM__SHARDS="1") as node, place.peer() as peer:
        context = peer.create1(place.customer(node).sim().imsi)
        before = _sent(peer, context, 200, "before")
        node.kill()
        stream = place.folder / "var" / "stream"
        segment = max((p for p in stream.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(segment.read_bytes())
        data[len(data) // 4] ^= 1
        segment.write_bytes(data)
        before_start = len(node.log)
        is_ready = node.start()
        time.sleep(3)
        said = len(node.log) - before_start
        after = _sent(peer, context, 20, "after") if node.is_alive else []
        text = _stored(stream)
        kept = _found(before, text)
        ok = len(before) == 200 and node.is_alive and len(after) == 20 and kept >= 199 and said > 0
        return {
            "ok": ok, "ready": is_ready, "alive": node.is_alive, "acknowledged": len(before), "there": kept,
            "said": said > 0, "acknowledged after": len(after),
        }  # fmt: skip


def stream_removed(place: Place) -> Outcome:
    """A node whose stream's folder is gone lives, and goes on (H2)."""
    with place.node() as node, place.peer() as peer:
        context = peer.create1(place.customer(node).sim().imsi)
        before = _sent(peer, context, 20, "before")
        time.sleep(2)
        node.stop()
        shutil.rmtree(place.folder / "var" / "stream")
        node.start()
        time.sleep(3)
        after = _sent(peer, context, 5, "after") if node.is_alive else []
        ok = len(before) == 20 and node.is_alive and len(after) == 5
        return {"ok": ok, "alive": node.is_alive, "before": len(before), "after": len(after)}


TRIES: dict[str, Callable[[Place], Outcome]] = {
    "H1-dns-flood": dns_flood,
    "M8-empty-lines": empty_lines,
    "edge-many-connections": many_connections,
    "edge-slow-connect": slow_connect,
    "edge-empty-mqtt-payload": empty_mqtt_payload,
    "edge-big-mqtt-payload": big_mqtt_payload,
    "edge-expect-continue": expect_continue,
    "edge-group-settings": group_settings,
    "H2-flipped-bit": flipped_bit,
    "H2-stream-removed": stream_removed,
}
