"""Tries over RADIUS: what cannot be proved, whose a session is, what is replayed, what NASes really send."""

import json
import time
from collections.abc import Callable
from typing import Any

from loadtest.outside.node import ApiClient
from loadtest.outside.place import NAS_SECRET, Outcome, Place, eventually
from loadtest.outside.radius import (
    ACCEPT,
    ACCOUNTED,
    CALLED,
    CLASS,
    EAP,
    FRAMED_ADDRESS,
    INTERIM,
    NAS_ADDRESS,
    NAS_NAME,
    ON,
    REJECT,
    SESSION,
    START,
    STATUS,
    STOP,
    USER_NAME,
    Nas,
    imsi_vsa,
    number,
)

BETA_SECRET = "another-secret-of-beta"  # noqa: S105 - of a lab


def unproved_is_rejected(place: Place) -> Outcome:
    """EAP and MS-CHAP, which are not offered, and passwords that are none."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        imsi = place.customer(node).sim().imsi
        identity = f"0{imsi}@nai.epc.mnc010.mcc440.3gppnetwork.org".encode()
        eap = b"\x02\x01" + (5 + len(identity)).to_bytes(2, "big") + b"\x01" + identity
        microsoft = (311).to_bytes(4, "big")
        proofs: dict[str, list[tuple[int, bytes]]] = {
            "EAP identity": [(EAP, eap)],
            "EAP empty": [(EAP, b"")],
            "MS-CHAP": [(26, microsoft + b"\x0b\x0a" + bytes(8)), (26, microsoft + b"\x01\x34" + bytes(50))],
            "MS-CHAPv2": [
                (26, microsoft + b"\x0b\x12" + bytes(16)),
                (26, microsoft + b"\x19\x34" + bytes(50)),
            ],
            "CHAP of 5": [(3, b"12345")],
            "password of 15": [(2, bytes(15))],
        }
        codes = {}
        for name, proof in proofs.items():
            codes[name], _ = nas.access(
                [(USER_NAME, imsi.encode()), imsi_vsa(imsi), (CALLED, b"soracom.io"), *proof], wait_s=2.0
            )
        return {"ok": ACCEPT not in codes.values() and codes["EAP identity"] == REJECT, **codes}


def other_nas(place: Place) -> Outcome:
    """Another client neither ends a session nor bills it (H8, first half)."""
    with (
        place.node(**place.nases(**{NAS_SECRET: 2, BETA_SECRET: 3})) as node,
        _nas(place) as alpha,
        Nas(place.address(3), place.address(1), BETA_SECRET) as beta,
    ):
        customer = place.customer(node)
        sim = customer.sim()
        _, own, _ = alpha.attach(sim.imsi, session="a1")
        beta.report(STOP, "a1", 5, 5, [(CLASS, own), (USER_NAME, sim.imsi.encode())])
        beta.attach(sim.imsi, session="b1")
        was_ended = alpha.disconnected(2.0) is not None
        alpha.report(INTERIM, "a1", 1_000, 2_000, [(CLASS, own), (USER_NAME, sim.imsi.encode())])
        octets = eventually(lambda: _moved(customer, sim.sim_id), within_s=6)
        still = int(node.metrics().get('airloom_sessions_open{access="radius"}', 0))
        ok = octets == (1_000, 2_000) and still == 2 and not was_ended
        return {"ok": ok, "octets": octets, "disconnected": was_ended, "open": still}


def impossible_usage(place: Place) -> Outcome:
    """A report above what the line can carry is no bill of millions (H8, second half)."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        customer = place.customer(node)
        sim = customer.sim()
        _, own, _ = nas.attach(sim.imsi, session="a1")
        who = [(CLASS, own), (USER_NAME, sim.imsi.encode())]
        code = nas.report(INTERIM, "a1", 1, 1, who, giga=1 << 20)
        time.sleep(2.0)
        amount = _bill(customer)
        nas.report(STOP, "a1", 5_000, 6_000, who)
        octets = eventually(lambda: _moved(customer, sim.sim_id), within_s=6)
        return {
            "ok": 0 <= amount < 1 and octets == (5_000, 6_000),
            "code": code,
            "bill": amount,
            "octets": octets,
        }


def _bill(customer: ApiClient) -> float:
    """The latest bill's amount; -1 where there is none."""
    rows: Any = customer.call("GET", "/bills/latest")[1]
    return float(rows.get("amount", -1)) if isinstance(rows, dict) else -1.0


def replayed_accounting_on(place: Place) -> Outcome:
    """An Accounting-On that was heard before ends nothing (H9)."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        customer = place.customer(node)
        who = [(NAS_ADDRESS, bytes(map(int, nas.address.split("."))))]
        old, new = customer.sim(), customer.sim()
        nas.attach(old.imsi, session="o1", more=who)
        replayed = nas.accounting_bytes([(STATUS, number(ON)), (SESSION, b"0"), *who])
        nas.send(replayed)
        ended = eventually(lambda: not _is_online(customer, old.sim_id), within_s=6)
        nas.attach(new.imsi, session="n1", more=who)
        time.sleep(32)  # longer than repeats are answered from the cache
        nas.send(replayed)
        time.sleep(2)
        stays = _is_online(customer, new.sim_id)
        return {"ok": bool(ended) and stays, "the true one ended its own": bool(ended), "newer stays": stays}


def _is_online(customer: ApiClient, sim_id: str) -> bool:
    return bool((customer.call("GET", f"/sims/{sim_id}")[1].get("sessionStatus") or {}).get("online"))


def forms_of_an_apn(place: Place) -> Outcome:
    """An operator identifier, a final dot; and none, where the client has a default."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        imsi = place.customer(node).sim().imsi
        codes = {
            apn: nas.access([(USER_NAME, imsi.encode()), imsi_vsa(imsi), (CALLED, apn.encode())])[0]
            for apn in ("soracom.io", "soracom.io.mnc010.mcc440.gprs", "soracom.io.", "SORACOM.IO")
        }
        return {"ok": set(codes.values()) == {ACCEPT}, **codes}


def unbookable_accounting(place: Place) -> Outcome:
    """Accounting that cannot be booked is answered."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        customer = place.customer(node)
        suspended, own_pool = customer.sim(), customer.sim()
        customer.call("POST", f"/sims/{suspended.sim_id}/suspend")
        cases = {
            "unknown SIM": [(USER_NAME, b"440109999999999"), imsi_vsa("440109999999999")],
            "no SIM": [(USER_NAME, b"somebody@corp.example")],
            "suspended": [(USER_NAME, suspended.imsi.encode()), imsi_vsa(suspended.imsi)],
            "no Access before": [
                (USER_NAME, own_pool.imsi.encode()),
                imsi_vsa(own_pool.imsi),
                (FRAMED_ADDRESS, bytes((192, 0, 2, 7))),
            ],
        }
        codes = {}
        for name, who in cases.items():
            session = name.replace(" ", "")
            base = [(STATUS, number(START)), (SESSION, session.encode()), (CALLED, b"soracom.io"), *who]
            codes[f"{name}, Start"] = nas.account(base, wait_s=2)
            codes[f"{name}, Stop"] = nas.report(STOP, session, 10, 20, [(CALLED, b"soracom.io"), *who])
        return {"ok": set(codes.values()) == {ACCOUNTED}, **codes}


def several_classes(place: Place) -> Outcome:
    """Ours is found among several."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        customer = place.customer(node)
        sim = customer.sim()
        _, own, _ = nas.attach(sim.imsi, session="r04")
        two = [(CLASS, b"proxy-class"), (CLASS, own), (USER_NAME, sim.imsi.encode())]
        nas.report(INTERIM, "r04", 100, 200, two)
        code = nas.report(STOP, "r04-b", 300, 400, two)
        octets = eventually(lambda: _reached(customer, sim.sim_id, (300, 400)), within_s=6)
        return {"ok": code == ACCOUNTED and octets == (300, 400), "code": code, "octets": octets}


def one_number_two_nases(place: Place) -> Outcome:
    """Two NASes that number from 1, without Class: the usage of both."""
    clients = json.dumps([{"network": f"127.90.{place.number}.0/24", "secret": NAS_SECRET}])
    with (
        place.node(RADIUS__CLIENTS=clients) as node,
        _nas(place) as first,
        Nas(place.address(3), place.address(1), NAS_SECRET) as second,
    ):
        customer = place.customer(node)
        sim = customer.sim()
        who = [(USER_NAME, sim.imsi.encode()), imsi_vsa(sim.imsi), (CALLED, b"soracom.io")]
        names = {first: [(NAS_NAME, b"bras-1")], second: [(NAS_NAME, b"bras-2")]}

        def begin(nas: Nas) -> None:
            address = nas.access([*who, *names[nas]])[1][FRAMED_ADDRESS][0]
            started = [(STATUS, number(START)), (SESSION, b"00000001"), (FRAMED_ADDRESS, address)]
            nas.account([*started, *who, *names[nas]])

        begin(first)
        first.report(INTERIM, "00000001", 50_000, 60_000, [*who, *names[first]])
        begin(second)
        second.report(STOP, "00000001", 7_000, 9_000, [*who, *names[second]])
        first.report(STOP, "00000001", 50_000, 60_000, [*who, *names[first]])
        octets = eventually(lambda: _reached(customer, sim.sim_id, (57_000, 69_000)), within_s=6)
        return {"ok": octets == (57_000, 69_000), "octets": octets}


def on_by_the_other_name(place: Place) -> Outcome:
    """A NAS is known by either of its names."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        customer = place.customer(node)
        address = (NAS_ADDRESS, bytes(map(int, nas.address.split("."))))
        sim = customer.sim()
        nas.attach(sim.imsi, session="x1", more=[address, (NAS_NAME, b"bras-7")])
        time.sleep(1.2)
        nas.account([(STATUS, number(ON)), (SESSION, b"0"), address])
        ended = eventually(lambda: not _is_online(customer, sim.sim_id), within_s=6)
        return {"ok": bool(ended), "ended": bool(ended)}


def disconnect_in_its_words(place: Place) -> Outcome:
    """A Disconnect names the session as its NAS did."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        customer = place.customer(node)
        sim = customer.sim()
        address = (NAS_ADDRESS, bytes(map(int, nas.address.split("."))))
        nas.attach(sim.imsi, session="r05", user="meter-0815@fleet.example", more=[address])
        customer.call("POST", f"/sims/{sim.sim_id}/delete_session")
        found = nas.disconnected(5.0) or {}
        user = found.get(USER_NAME, [b""])[0].decode()
        ok = user == "meter-0815@fleet.example" and found.get(NAS_ADDRESS) == [address[1]]
        return {"ok": ok, "User-Name": user, "attributes": sorted(found)}


def rejects_are_told(place: Place) -> Outcome:
    """A reject stands in the log, with its cause, and in the SIM's events."""
    with place.node(**place.nases(**{NAS_SECRET: 2})) as node, _nas(place) as nas:
        customer = place.customer(node)
        sim = customer.sim()
        nas.access([(USER_NAME, sim.imsi.encode()), imsi_vsa(sim.imsi), (CALLED, b"no.such.apn")])
        time.sleep(1.0)
        is_logged = "unknown_apn" in node.log or "unknown APN" in node.log
        events: Any = customer.call("GET", f"/sims/{sim.sim_id}/events/sessions")[1]
        is_told = "unknown_apn" in json.dumps(events)
        return {"ok": is_logged and is_told, "logged": is_logged, "in the events": is_told}


def _nas(place: Place) -> Nas:
    return Nas(place.address(2), place.address(1), NAS_SECRET)


def _moved(customer: ApiClient, sim_id: str) -> tuple[int, int] | None:
    octets = customer.octets(sim_id)
    return octets if any(octets) else None


def _reached(customer: ApiClient, sim_id: str, wanted: tuple[int, int]) -> tuple[int, int] | None:
    """These octets once they are metered; otherwise the value of the last check."""
    octets = customer.octets(sim_id)
    return octets if octets == wanted else None


TRIES: dict[str, Callable[[Place], Outcome]] = {
    "radius-unproved-is-rejected": unproved_is_rejected,
    "H8-other-nas": other_nas,
    "H8-impossible-usage": impossible_usage,
    "H9-replayed-accounting-on": replayed_accounting_on,
    "radius-forms-of-an-apn": forms_of_an_apn,
    "radius-unbookable-accounting": unbookable_accounting,
    "radius-several-classes": several_classes,
    "radius-one-number-two-nases": one_number_two_nases,
    "radius-on-by-the-other-name": on_by_the_other_name,
    "radius-disconnect-in-its-words": disconnect_in_its_words,
    "radius-rejects-are-told": rejects_are_told,
}
