"""Attacks and checks over GTP: restart counters, ownership of sessions, forged messages, values sent to
devices.
"""

import struct
import time

from loadtest.outside.gtp import Context, Message, Peer, element2
from loadtest.outside.inner import DNS, MESSAGES, Tcp, checksum, is_alive, question, udp
from loadtest.outside.node import Node
from loadtest.outside.place import Outcome, Place

IPCP_WITH_WINS = bytes.fromhex("8080212201030022030600000000810600000000820600000000") + bytes.fromhex(
    "830600000000840600000000"
)
NAME_SERVER = bytes.fromhex("647f0035")


def restart_counter_back(place: Place) -> Outcome:
    """Recovery 100, then 50: each session works."""
    with place.node() as node, place.peer() as peer:
        customer = place.customer(node)
        alive: dict[str, int] = {}
        for version, create in ((1, peer.create1), (2, peer.create2)):
            for recovery in (100, 50, 50, 100):
                peer.recovery = recovery
                context = create(customer.sim().imsi)
                peer.listen(1.0)
                alive[f"v{version} {recovery} {len(alive)}"] = is_alive(peer, context) and peer.delete(
                    context
                )
        good = (128, 16)
        return {"ok": all(each in good for each in alive.values()), "alive": list(alive.values())}


def forged_echo(place: Place) -> Outcome:
    """Two forged datagrams end no session (H3)."""
    settings = place.partners(victim=[2], evil=[3])
    with place.node(**settings) as node, place.peer(2, recovery=7) as victim, place.peer(3) as evil:
        customer = place.customer(node)
        contexts = [victim.create2(customer.sim().imsi) for _ in range(10)]
        evil.echo(2, recovery=1)
        evil.echo(2, recovery=2)
        asked = [message for message in evil.listen(2.0) + evil.heard if message.kind == 1]
        victim.answers_echo = False  # the forger is quicker
        forged = [victim.message2(1, None, 77, element2(3, b"\x08"))]
        for ahead in range(1, 4):
            number = (asked[-1].sequence + ahead) & 0xFFFFFF if asked else ahead
            forged.append(victim.message2(2, None, number, element2(3, b"\x08")))
        for data in forged:
            victim.send(data)
        for message in victim.listen(1.0):
            if message.kind == 1:
                victim.answer_echo(message)
        victim.answers_echo = True
        victim.listen(12.0)
        alive = sum(is_alive(victim, context) for context in contexts)
        return {"ok": alive == len(contexts), "asked": len(asked), "alive": f"{alive} of {len(contexts)}"}


def foreign_handover(place: Place) -> Outcome:
    """Another partner neither takes over nor ends a session (H4)."""
    found: Outcome = {}
    settings = place.partners(alpha=[2], beta=[3])
    with place.node(**settings) as node, place.peer(2) as alpha, place.peer(3) as beta:
        customer = place.customer(node)
        for name, more in (("handover", {"handover": True}), ("plain", {})):
            sim = customer.sim()
            own = alpha.create2(sim.imsi)
            other = beta.create2(sim.imsi, **more)
            found[f"{name}: another's address"] = other.is_good and other.ue_address == own.ue_address
            found[f"{name}: own goes on"] = is_alive(alpha, own)
    bad = [name for name, value in found.items() if value != name.endswith("goes on")]
    return {"ok": not bad, **found}


def error_indication(place: Place) -> Outcome:
    """One forged Error Indication ends nothing (M12)."""
    with place.node() as node, place.peer() as peer:
        customer = place.customer(node)
        context = peer.create1(customer.sim().imsi)
        peer.error_indication(peer._next, peer.address, port=40_001)
        time.sleep(2.0)
        is_there = is_alive(peer, context)
        return {"ok": is_there, "alive": is_there}


def killed_amid_a_storm(place: Place) -> Outcome:
    """Sessions whose peer was never answered end after recovery (M15)."""
    with place.node() as node, place.peer() as peer:
        customer = place.customer(node)
        imsis = [customer.sim().imsi for _ in range(120)]
        for number, imsi in enumerate(imsis):
            peer.send(peer.create1_bytes(imsi, number + 1))
        answered: dict[int, Message] = {}
        until = time.monotonic() + 5
        while len(answered) < 30 and time.monotonic() < until:
            answered |= {each.sequence: each for each in peer.listen(0.005) if each.kind == 17}
        node.kill()
        answered |= {each.sequence: each for each in peer.listen(0.3) if each.kind == 17}
        node.start()
        held = _open(node)
        contexts = [peer.granted1(imsis[number - 1], message) for number, message in answered.items()]
        alive = [context for context in contexts if is_alive(peer, context)]
        until = time.monotonic() + 150
        while (now := _open(node)) > len(contexts) and time.monotonic() < until:
            for context in contexts:
                is_alive(peer, context)
            peer.listen(3.0)
        ok = 0 < len(contexts) < held and len(alive) == now == len(contexts)
        return {
            "ok": ok,
            "answered": len(contexts),
            "after the kill": held,
            "alive": len(alive),
            "at last": now,
        }


def _open(node: Node) -> int:
    return int(
        sum(value for name, value in node.metrics().items() if name.startswith("airloom_sessions_open"))
    )


def name_servers_beside_unknown(place: Place) -> Outcome:
    """An IPCP request with WINS is answered with the name servers that it asks for."""
    with place.node() as node, place.peer() as peer:
        customer = place.customer(node)
        plain = peer.create1(customer.sim().imsi, pco=IPCP_WITH_WINS)
        twice = bytes.fromhex("8080210a0101000a81060000000080210a0102000a830600000000")
        several = peer.create1(customer.sim().imsi, pco=twice)
        ok = NAME_SERVER in plain.pco and several.pco.count(b"\x80\x21") == 2
        return {"ok": ok, "answer": plain.pco.hex(), "of two containers": several.pco.hex()}


def one_gsn_address(place: Place) -> Outcome:
    """Both GSN addresses are mandatory (TS 29.060 table 5): cause 202."""
    with place.node() as node, place.peer() as peer:
        cause = peer.create1(place.customer(node).sim().imsi, gsns=1).cause
        return {"ok": cause == 202, "cause": cause}


def router_advertisement(place: Place) -> Outcome:
    """No other configuration is promised, and a foreign link-local address is not answered."""
    with place.node(GATEWAY__UE_PREFIXES="2001:db8::/41") as node, place.peer() as peer:
        context = peer.create2(place.customer(node).sim().imsi, pdn=2, paa=b"\x02\x40" + bytes(16))
        if not context.is_good:
            return {"ok": False, "cause": context.cause}
        paa = context.raw[79, 0][0]
        own = bytes.fromhex("fe80000000000000") + paa[10:18]
        flags = []
        for source in (own, bytes.fromhex("fe80000000000000aabbccddeeff0011")):
            peer.down(0.3)
            peer.up(context.teid_user, _solicitation(source))
            heard = [inner for kind, _, inner in peer.down(1.0) if kind == 255 and inner[40:41] == b"\x86"]
            flags.append(heard[0][45] if heard else None)
        ok = flags[0] is not None and not flags[0] & 0x40 and flags[1] is None
        return {"ok": ok, "flags": flags[0], "foreign answered": flags[1] is not None}


def _solicitation(source: bytes) -> bytes:
    everybody = bytes.fromhex("ff020000000000000000000000000002")
    body = b"\x85\0\0\0" + bytes(4)
    total = checksum(source + everybody + struct.pack("!IHBB", len(body), 0, 0, 58) + body)
    body = b"\x85\0" + struct.pack("!H", total) + bytes(4)
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + everybody + body


def second_source(place: Place) -> Outcome:
    """A tunnel hears more than one source of its partner."""
    settings = place.partners(alpha=[2, 3], beta=[4])
    with (
        place.node(**settings) as node,
        place.peer(2) as alpha,
        place.peer(3) as board,
        place.peer(4) as beta,
    ):
        context = alpha.create2(place.customer(node).sim().imsi)
        answered = {}
        for name, sender in (("own", alpha), ("board", board), ("beta", beta)):
            answered[name] = _asks_from(sender, alpha, context)
        return {"ok": answered == {"own": True, "board": True, "beta": False}, **answered}


def _asks_from(sender: Peer, heard: Peer, context: Context) -> bool:
    port = 43_000
    sender.up(context.teid_user, udp((context.ue_address, port), DNS, question("beam.soracom.io")))
    return heard.down_until(1.5, port) is not None


def many_restarts(place: Place) -> Outcome:
    """Eight restarts in a hurry leave addresses for attaches."""
    with place.node(GATEWAY__UE_POOL="10.200.0.0/20") as node, place.peer() as peer:
        customer = place.customer(node)
        sims = [customer.sim().imsi for _ in range(2)]
        for _ in range(9):
            node.kill()
            node.start()
        causes = [peer.create1(imsi).cause for imsi in sims]
        return {"ok": causes == [128, 128], "causes": causes}


def reloaded_mtu(place: Place) -> Outcome:
    """A reload changes the MTU completely: PCO and "packet too big" name the same value."""
    file = place.folder / "airloom.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = '[control]\nsecret = "a-secret-of-many-characters-0123456789"\n[gateway]\n'
    text += 'apns = [{{name="soracom.io", mtu_bytes={}}}]\n'
    file.write_text(text.format(1_380))
    node = place.node_of(file)
    with node, place.peer() as peer:
        customer = place.customer(node)
        first = _links(peer, customer.sim().imsi)
        file.write_text(text.format(1_300))  # lower: the edge's own link keeps what it had at the start
        done = node.run("node", "reload", "--config", str(file))
        second = _links(peer, customer.sim().imsi)
        told = (done.stdout + done.stderr).strip()
        ok = (first, second) == ((1_380, 1_340), (1_300, 1_260))
        return {"ok": ok, "PCO and MSS before": first, "after": second, "reload": told}


def _links(peer: Peer, imsi: str) -> tuple[int, int]:
    """The MTU that a device gets by PCO (TS 24.008 §10.5.6.3) and by the MSS of a connection."""
    context = peer.create1(imsi, pco=bytes.fromhex("80001000"))
    line = Tcp(peer, context, MESSAGES, 47_000)
    line.connect()
    return _mtu_of(context.pco), line.mss_bytes


def _mtu_of(pco: bytes) -> int:
    at = pco.find(b"\x00\x10\x02")
    return int.from_bytes(pco[at + 3 : at + 5], "big") if at >= 0 else 0


TRIES = {
    "gtp-restart-counter-back": restart_counter_back,
    "H3-forged-echo": forged_echo,
    "H4-foreign-handover": foreign_handover,
    "M12-error-indication": error_indication,
    "M15-killed-amid-a-storm": killed_amid_a_storm,
    "gtp-name-servers-beside-unknown": name_servers_beside_unknown,
    "gtp-one-gsn-address": one_gsn_address,
    "gtp-router-advertisement": router_advertisement,
    "gtp-second-source": second_source,
    "gtp-many-restarts": many_restarts,
    "gtp-reloaded-mtu": reloaded_mtu,
}
