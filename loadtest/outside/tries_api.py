"""Attacks and checks over HTTP: limits, expired credentials, secrets, readiness."""

import json
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from loadtest.outside.node import PASSWORD, ApiClient, Node, fetch, fetch_whole
from loadtest.outside.place import NAS_SECRET, Outcome, Place, eventually, percentile


def sandbox_is_off(place: Place) -> Outcome:
    """No operator is created without credentials, unless the sandbox is on (H6)."""
    with place.node(API__SANDBOX="") as node:
        body = {"email": "x@example.com", "password": PASSWORD, "authKeyId": "k", "authKey": "s"}
        status, _ = fetch(f"{node.endpoint}/v1/sandbox/init", method="POST", body=body)
        return {"ok": status == 404, "status": status}


def greedy_lists(place: Place) -> Outcome:
    """One customer's lists cause no refused attaches (H7)."""
    with place.node(**place.partners(alpha=[2])) as node, place.peer() as peer:
        greedy, other = place.customer(node, "greedy"), place.customer(node, "other")
        for _ in range(400):
            greedy.sim()
        sims = [other.sim().imsi for _ in range(24)]
        took_before, causes_before = _attach(peer, sims[:12])
        statuses: Counter[int] = Counter()
        stopped = threading.Event()

        def lists() -> None:
            while not stopped.is_set():
                statuses[greedy.call("GET", "/sims?limit=1000")[0]] += 1

        threads = [threading.Thread(target=lists, daemon=True) for _ in range(40)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        took, causes = _attach(peer, sims[12:])
        stopped.set()
        for thread in threads:
            thread.join(40)
        is_quick = percentile(took, 99) < max(500.0, 2 * percentile(took_before, 99))
        is_greedy = statuses[200] > 0
        good = is_quick and is_greedy and causes == Counter({128: 12}) and not statuses[500]
        good = good and "Traceback" not in node.log
        return {
            "ok": good, "causes": dict(causes), "p99 ms": percentile(took, 99),
            "p99 ms before": percentile(took_before, 99), "before": dict(causes_before),
            "lists": dict(statuses),
        }  # fmt: skip


def _attach(peer: Any, imsis: list[str]) -> tuple[list[float], Counter[int]]:
    took, causes = [], Counter[int]()
    for imsi in imsis:
        began = time.monotonic()
        causes[peer.create1(imsi).cause] += 1
        took.append(time.monotonic() - began)
    return took, causes


def token_outlives_nothing(place: Place) -> Outcome:
    """A token ends with its key, and with the password (M1)."""
    with place.node() as node:
        customer = place.customer(node)
        operator = customer.operator_id
        key = customer.call("POST", f"/operators/{operator}/auth_keys")[1]
        holder = _as(node, customer, key)
        customer.call("DELETE", f"/operators/{operator}/auth_keys/{key['authKeyId']}")
        after_key = holder.call("GET", "/sims")[0]
        stolen = _as(node, customer, customer.call("POST", f"/operators/{operator}/auth_keys")[1])
        changed = {"currentPassword": PASSWORD, "newPassword": f"{PASSWORD}-2"}
        status = customer.call("POST", f"/operators/{operator}/password", changed)[0]
        time.sleep(1.1)
        after_password = stolen.call("GET", "/sims")[0]
        ok = (after_key, after_password) == (401, 401)
        return {"ok": ok, "after the key": after_key, "changed": status, "after the password": after_password}


def _as(node: Node, customer: ApiClient, key: dict[str, str]) -> ApiClient:
    other = ApiClient.__new__(ApiClient)
    other._node, other._headers, other.email = node, {}, customer.email
    body = {"authKeyId": key["authKeyId"], "authKey": key["authKey"]}
    other.use(json.loads(fetch(f"{node.endpoint}/v1/auth", method="POST", body=body)[1]))
    return other


def deleted_operator(place: Place) -> Outcome:
    """A deleted operator's SIMs do not attach, and nothing of them stays open (M2)."""
    with place.node() as node, place.peer() as peer:
        customer = place.customer(node)
        first, second = customer.sim(), customer.sim()
        peer.create1(first.imsi)
        status = customer.call("DELETE", f"/operators/{customer.operator_id}")[0]
        if status in {400, 404, 405}:
            path = f"/sandbox/operators/{customer.operator_id}"
            status = customer.call("DELETE", path)[0]
        peer.listen(2.0)
        cause = peer.create1(second.imsi).cause
        still = [value for name, value in node.metrics().items() if name.startswith("airloom_sessions_open")]
        ok = status < 300 and cause not in (0, 128) and not sum(still)
        return {"ok": ok, "deleted": status, "attach": cause, "open": sum(still)}


def wrong_passwords(place: Place) -> Outcome:
    """Guessing is slowed down (M3), and other customers are not blocked."""
    with place.node() as node:
        customer = place.customer(node)
        other = place.customer(node, "other")
        statuses: Counter[int] = Counter()
        for number in range(40):
            body = {"email": customer.email, "password": f"Wrong-{number}"}
            statuses[fetch(f"{node.endpoint}/v1/auth", method="POST", body=body)[0]] += 1
        mine = {"email": other.email, "password": PASSWORD}
        stays = fetch(f"{node.endpoint}/v1/auth", method="POST", body=mine)[0]
        ok = statuses[429] > 0 and statuses[401] <= 25 and stays == 200
        return {"ok": ok, "answers": dict(statuses), "another": stays}


def half_requests(place: Place) -> Outcome:
    """Requests that are never finished are cut off (M4), and whole ones are answered."""
    with place.node() as node:
        opened = []
        for _ in range(20):
            each = socket.create_connection(("127.0.0.1", node.port), 5)
            each.sendall(b"POST /v1/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n")
            opened.append(each)
        late = []
        for _ in range(20):
            each = socket.create_connection(("127.0.0.1", node.port), 5)
            each.sendall(b"POST /v1/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            late.append(each)
        time.sleep(45)
        left = [sum(not _is_closed(each) for each in group) for group in (opened, late)]
        whole = fetch(f"{node.endpoint}/healthz")[0]
        return {
            "ok": left == [0, 0] and whole == 200, "half a head still open": left[0],
            "half a body still open": left[1], "a whole one": whole,
        }  # fmt: skip


def _is_closed(opened: socket.socket) -> bool:
    opened.settimeout(0.2)
    try:
        while data := opened.recv(4_096):
            if not data:
                break
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def file_modes(place: Place) -> Outcome:
    """Other users of the host cannot read stored files (M5)."""
    with place.node(), place.peer():
        wide = [
            str(path.relative_to(place.folder))
            for path in (place.folder / "var").rglob("*")
            if path.lstat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        ]
        is_open = (place.folder / "var").stat().st_mode & 0o077
        return {"ok": not wide and not is_open, "readable by others": wide[:5]}


def secrets_in_errors(place: Place) -> Outcome:
    """A mistake in the configuration prints no secret (M6)."""
    node = place.node(RADIUS__CLIENTS=json.dumps([{"secret": "very-secret-radius-key"}]))
    node.start(ready_s=20)
    node.stop()
    return {"ok": "very-secret" not in node.log and bool(node.log), "said": node.log.strip()[-120:]}


def metrics_are_the_operators(place: Place) -> Outcome:
    """Customers do not read them (M7), and an operator does."""
    with place.node() as node:
        status = fetch(f"{node.endpoint}/metrics")[0]
        return {"ok": status in (401, 403, 404) and bool(node.metrics()), "status": status}


def garbage_is_not_logged(place: Place) -> Outcome:
    """Strangers do not fill the log (M13)."""
    with place.node() as node:
        before = len(node.log)
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(40), b"GET / HTTP/9.9\r\n\r\n") * 15:
            with socket.create_connection(("127.0.0.1", node.port), 5) as opened:
                opened.sendall(data)
                opened.settimeout(2)
                with suppress(OSError):
                    opened.recv(4_096)
        time.sleep(0.5)
        grown = len(node.log) - before
        return {"ok": grown < 1_000 and "Traceback" not in node.log, "octets of log": grown}


def first_run_keeps_secrets(place: Place) -> Outcome:
    """What a first start makes is not printed into a journal (M14)."""
    with place.node() as node:
        text = "".join(node.stdout) + node.log
        found = [word for word in ("password", "secret-", "Aa1-") if word in text]
        return {"ok": bool(text) and not found, "found": found}


def readiness(place: Place) -> Outcome:
    """A node that runs and cannot bind one of its gateways is not ready (SRE 1), says it ever more seldom
    (SRE 7), and is ready once it can: that gateway is not its home, or it would end when it starts.
    """
    gateways = [
        {"id": "vg-1", "address": place.address(1), "protocols": ["radius"]},
        {"id": "vg-2", "address": place.address(2), "protocols": ["gtp"]},
    ]
    settings = {
        "GATEWAY__INSTANCES": json.dumps(gateways),
        "NODE__PREFERRED_GATEWAYS": '["vg-1"]',
        "GATEWAY__ADDRESS": "",
    }
    settings |= place.nases(**{NAS_SECRET: 3})
    with place.peer(2) as other, place.node(**settings) as node:  # the other has the ports of vg-2
        time.sleep(4)
        before, lines = _readyz(node), len(node.log.splitlines())
        time.sleep(10)
        more, still = len(node.log.splitlines()) - lines, _readyz(node)
        other.control.close()
        other.user.close()
        after = eventually(lambda: _readyz(node) == 200, within_s=20)
        return {
            "ok": (before, still) == (503, 503) and more <= 6 and after,
            "readyz": [before, still],
            "lines in 10 s": more,
            "ready once it can": after,
        }


def _readyz(node: Node) -> int:
    return fetch(f"{node.endpoint}/readyz")[0]


def pages_and_parameters(place: Place) -> Outcome:
    """Link headers, unknown parameters, wrong methods, terminated SIMs."""
    with place.node() as node:
        customer = place.customer(node)
        sims = [customer.sim() for _ in range(3)]

        def links(path: str) -> str:
            url = f"{node.endpoint}/v1{path}"
            return fetch_whole(url, method="GET", headers=customer._headers)[2].get("Link", "")

        first = links("/sims?limit=2")
        key = first.partition("last_evaluated_key=")[2].partition(">")[0].partition("&")[0]
        second = links(f"/sims?limit=2&last_evaluated_key={key}")
        unknown = customer.call("GET", "/sims?status=active")[0]
        wrong = fetch(f"{node.endpoint}/v1/sims", method="DELETE", headers=customer._headers)[0]
        sim = sims[0].sim_id
        group = customer.call("POST", "/groups", {"tags": {}})[1]["groupId"]
        customer.call("POST", f"/sims/{sim}/enable_termination")
        ended = customer.call("POST", f"/sims/{sim}/terminate")[0]
        grouped = customer.call("POST", f"/sims/{sim}/set_group", {"groupId": group})[0]
        nulls = _nulls(customer.call("GET", f"/sims/{sims[1].sim_id}")[1])
        ok = 'rel="prev"' in second.replace("rel=prev", 'rel="prev"') and unknown == 400 and wrong == 405
        return {
            "ok": ok and ended == grouped == 200 and not nulls, "last page": second[:60],
            "unknown parameter": unknown, "wrong method": wrong, "terminated": ended,
            "set_group": grouped, "nulls": nulls[:4],
        }  # fmt: skip


def _nulls(value: Any, path: str = "") -> list[str]:
    if value is None:
        return [path]
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in _nulls(each, f"{path}.{key}")]
    return []


TRIES: dict[str, Callable[[Place], Outcome]] = {
    "H6-sandbox-is-off": sandbox_is_off,
    "H7-greedy-lists": greedy_lists,
    "M1-token-outlives-nothing": token_outlives_nothing,
    "M2-deleted-operator": deleted_operator,
    "M3-wrong-passwords": wrong_passwords,
    "M4-half-requests": half_requests,
    "M5-file-modes": file_modes,
    "M6-secrets-in-errors": secrets_in_errors,
    "M7-metrics-are-the-operators": metrics_are_the_operators,
    "M13-garbage-is-not-logged": garbage_is_not_logged,
    "M14-first-run-keeps-secrets": first_run_keeps_secrets,
    "sre-readiness": readiness,
    "api-pages-and-parameters": pages_and_parameters,
}
