"""Customers and SIMs by the control channel: `airloom operators`, `airloom sims import`, and who may not."""

import asyncio
import io
import json
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from airloom.cli import stock as import_command
from api.operator.control import ControlServices, make_control
from api.operator.customers import IMPORT_BYTES_MAX, CustomerOperations
from api.ready import Readiness
from core.adapters.own_socket import SOCKET_FILE, listening, reachable
from core.domain.account import Operator
from core.domain.audit import AuditAction
from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason
from core.domain.sim import SimStatus
from core.domain.usage import day_of
from core.domain.values import replace
from core.errors import ConfigurationError
from core.services.customers.guesses import BOUNDS, Guess
from core.services.customers.stock import ROWS_MAX
from loadtest.peers.gtp import GtpPeer, Refusal
from loadtest.simulation.world import APN, PEERS
from tests.node.test_radius_front_end import Stage, played
from tests.support.api import ApiWorld, make_world, tenants
from tests.support.cli import Airloom

SECRET = "a secret of all nodes"
A_WHILE = timedelta(hours=1)
HEADER = "imsi,iccid,msisdn,registration_secret\n"
ROWS = [f"00101000000000{n},898110000000000000{n},8190100000{n},secret-{n}\n" for n in range(1, 6)]


async def nothing_changed() -> list[str]:
    return []


async def nobody(*_: object) -> Any:
    raise AssertionError("not used here")


def control_of(world: ApiWorld, secret: str | None) -> web.Application:
    return make_control(
        ControlServices(
            name="node-1",
            secret=secret,
            guesses=world.services.guesses,
            customers=CustomerOperations(world.services.operators, world.stock),
            gateways=dict,
            fences=dict,
            readiness=lambda role: Readiness("ready", {}),
            places=dict,
            hand_over=nobody,
            end_sessions_of=nobody,
            refresh_sessions_of=nobody,
            group_changed=nobody,
            operations=None,  # type: ignore[arg-type] # they are not used here
            reload=nothing_changed,
            drain=lambda: None,
            billing=nobody,
            serve_link=None,
        )
    )


@dataclass
class Operated:
    """A store with a control channel on the socket of a data folder, where the command finds it."""

    world: ApiWorld
    folder: Path

    async def actions(self) -> list[str]:
        entries = await self.world.store.audit.of_day(day_of(self.world.clock.now()))
        return [entry.action.value for entry in entries.items]


@pytest.fixture
async def operated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operated]:
    world, folder = make_world(sandbox=False), tmp_path / "var"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("AIRLOOM_NODE__DATA_DIR", str(folder))
    runner = web.AppRunner(control_of(world, None), shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, await asyncio.to_thread(listening, folder)).start()
    yield Operated(world, folder)
    await runner.cleanup()


ANYBODYS = {"/healthz", "/readyz"}


def routes_of(application: web.Application) -> list[tuple[str, str]]:
    """Method and path of whatever it serves: one that is added later is among them."""
    found = [(route.method, route.resource) for route in application.router.routes()]
    return [(method, resource.canonical) for method, resource in found if resource is not None]


async def test_every_route_wants_the_secret_of_the_nodes_and_no_customers_token() -> None:
    world = make_world()
    routes = [each for each in routes_of(control_of(world, SECRET)) if each[1] not in ANYBODYS]
    assert {path.split("/")[1] for _, path in routes} == {"control"}
    assert len(routes) > 25
    async with (
        TestServer(control_of(world, SECRET)) as server,
        tenants(world) as (one, _),
        aiohttp.ClientSession() as http,
    ):
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {one.headers['X-Soracom-Token']}", **one.headers},
            {"Authorization": f"Basic {SECRET}"},
        ]
        for method, path in routes:
            for headers in wrong:
                world.clock.at += A_WHILE
                async with http.request(method, server.make_url(path), headers=headers, json={}) as answer:
                    assert answer.status == 401, (path, headers)
        for _, path in routes:  # and on the customers' port there are none
            found = await one.call("POST", path)
            assert found.status == 404
            async with http.post(one.endpoint + path, json={}, headers=one.headers) as answer:
                assert answer.status == 404
        assert (await world.services.operators.page(after="", limit=10)).items[2:] == ()


async def test_a_secret_of_the_nodes_is_guessed_slowly() -> None:
    world = make_world()
    tries = BOUNDS[Guess.CONTROL_SECRET]["source"].tries
    async with TestServer(control_of(world, SECRET)) as server, aiohttp.ClientSession() as http:

        async def ask(secret: str) -> tuple[int, bool]:
            headers = {"Authorization": f"Bearer {secret}"}
            async with http.get(server.make_url("/control/operators"), headers=headers) as answer:
                return answer.status, "Retry-After" in answer.headers

        for _ in range(100):
            assert await ask(SECRET) == (200, False)
        assert [await ask("another secret of nobody") for _ in range(tries)] == [(401, False)] * tries
        assert await ask("another secret of nobody") == (429, True)
        assert await ask(SECRET) == (429, True), "what comes then is not looked at"
        entries = (await world.store.audit.of_day(day_of(world.clock.now()))).items
        assert [entry.action for entry in entries] == [AuditAction.GUESSED]


def test_a_channel_that_others_reach_has_a_secret() -> None:
    with pytest.raises(ConfigurationError, match=r"control\.secret"):
        control_of(make_world(), "")


async def test_what_cannot_be_read_is_named() -> None:
    world = make_world()
    async with TestServer(control_of(world, SECRET)) as server, aiohttp.ClientSession() as http:
        for method, path, body, status in (
            ("POST", "/control/operators", b"{", 400),
            ("POST", "/control/operators", b'{"email": 5}', 400),
            ("POST", "/control/operators", b'{"email": "a@b.c", "sandbox": 1}', 400),
            ("POST", "/control/operators", b'{"email": "nobody"}', 409),
            ("POST", "/control/operators/close", b'{"operator_id": "OP9999999999"}', 409),
            ("POST", "/control/operators/add-auth-key", b'{"operator_id": "OP9999999999"}', 409),
            ("POST", "/control/sims/import", b'{"rows": [{"imsi": "1"}]}', 400),
            ("POST", "/control/sims/import", b" " * (IMPORT_BYTES_MAX + 1), 413),
            ("POST", "/control/operators", b" " * 5_000, 413),
            ("GET", "/control/operators?limit=1001", b"", 400),
        ):
            headers = {"Authorization": f"Bearer {SECRET}"}
            url = f"{str(server.make_url('')).rstrip('/')}{path}"
            async with http.request(method, url, data=io.BytesIO(body), headers=headers) as got:
                assert got.status == status, (path, body[:40], await got.text())
                assert (await got.json())["error"]
        row = {"imsi": "001010000000001", "iccid": "8981100000000000001"}
        url = str(server.make_url("/control/sims/import"))
        async with http.post(url, json={"rows": [row] * (ROWS_MAX + 1)}, headers=headers) as got:
            assert (got.status, await got.json()) == (400, {"error": "rows: at most 1000"})


# -- the command ------------------------------------------------------------------------------------------


async def test_a_customers_life_by_the_command(operated: Operated, airloom: Airloom, tmp_path: Path) -> None:
    made = (await airloom("operators", "create", "--email", "Ops@example.com")).json
    assert made["email"] == "ops@example.com"
    assert made["auth_key"].startswith("secret-")
    again = await airloom("operators", "create", "--email", "ops@example.com")
    assert (again.code, again.out) == (1, "")
    assert again.err.endswith("The e-mail address is in use.\n")
    listed = (await airloom("operators", "list")).json
    assert [(each["operator_id"], each["has_password"]) for each in listed] == [(made["operator_id"], False)]
    assert "auth_key" not in str(listed)
    out = tmp_path / "ops.json"
    more = await airloom("operators", "add-auth-key", made["operator_id"], "--out", str(out))
    profile = json.loads(out.read_text())
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert profile["authKey"].startswith("secret-")
    assert profile["authKey"] not in more.out
    refused = await airloom("operators", "create", "--email", "other@example.com", "--out", str(out))
    assert refused.code == 2, "a file that is there stays"
    assert json.loads(out.read_text()) == profile
    failed = await airloom("operators", "create", "--email", "nobody", "--out", str(tmp_path / "none.json"))
    assert (failed.code, (tmp_path / "none.json").exists()) == (1, False)
    closed = await airloom("operators", "close", made["operator_id"], "--yes")
    assert (closed.code, closed.out) == (0, f"closed: {made['operator_id']}, 0 SIMs terminated\n")
    assert (await airloom("operators", "list")).json == []
    assert await operated.actions() == ["operator_created", "operator_closed"]


async def test_without_a_node_the_command_says_so(airloom: Airloom, tmp_path: Path) -> None:
    os.environ["AIRLOOM_NODE__DATA_DIR"] = str(tmp_path)
    try:
        ended = await airloom("operators", "list")
    finally:
        del os.environ["AIRLOOM_NODE__DATA_DIR"]
    assert ended.code == 69
    assert ended.err.startswith(f"airloom: no node is running in {tmp_path}; ")


async def test_sims_are_brought_in_registered_and_not_twice(
    operated: Operated, airloom: Airloom, tmp_path: Path
) -> None:
    file = tmp_path / "sims.csv"
    file.write_text(HEADER + "".join(ROWS[:3]))
    assert (await airloom("sims", "import", str(file))).out == (
        "imported 3, registered 0, unchanged 0, refused 0\n"
    )
    sims = operated.world.store.sims
    sim = await sims.get("8981100000000000001")
    assert sim is not None
    assert (sim.status, sim.imsi, sim.subscribers[0].msisdn) == (
        SimStatus.INSTOCK, "001010000000001", "81901000001",
    )  # fmt: skip
    assert "secret-1" not in str(sim.registration_secret_sha256)
    operator = (await airloom("operators", "create", "--email", "ops@example.com")).json["operator_id"]
    registered = await operated.world.services.sims.register(operator, sim.sim_id, "secret-1")
    assert registered.status is SimStatus.READY
    file.write_text(HEADER + "".join(ROWS))
    assert (await airloom("sims", "import", str(file))).out == (
        "imported 2, registered 0, unchanged 3, refused 0\n"
    )
    owned = await airloom("sims", "import", str(file), "--operator", operator)
    assert owned.out == "imported 0, registered 4, unchanged 1, refused 0\n"
    assert len((await sims.of_operator(operator)).items) == 5
    now = operated.world.clock.now()
    audited = await operated.world.store.audit.of_day(now.year * 10_000 + now.month * 100 + now.day)
    imported = [each for each in audited.items if each.action is AuditAction.SIMS_IMPORTED]
    assert [(each.subject, each.detail) for each in imported][-1] == (operator, "4 SIMs"), "from stock"
    before = [await sims.get(f"898110000000000000{n}") for n in range(1, 6)]
    assert (await airloom("sims", "import", str(file), "--operator", operator)).out.endswith(
        "unchanged 5, refused 0\n"
    )
    assert [await sims.get(f"898110000000000000{n}") for n in range(1, 6)] == before


async def test_a_row_that_contradicts_is_refused_by_line_and_the_others_go_on(
    operated: Operated, airloom: Airloom, tmp_path: Path
) -> None:
    file = tmp_path / "sims.csv"
    file.write_text(HEADER + "".join(ROWS[:2]))
    await airloom("sims", "import", str(file))
    thief = ROWS[0].replace("8981100000000000001", "8981100000000000099")
    file.write_text(HEADER + ROWS[1].replace("secret-2", "zecret-2") + thief + ROWS[2])
    ended = await airloom("sims", "import", str(file))
    assert ended.code == 1
    assert ended.out == "imported 1, registered 0, unchanged 0, refused 2\n"
    assert ended.err.splitlines()[:2] == [
        f"{file}:2: iccid: already imported with a different registration_secret",
        f"{file}:3: imsi: used by another SIM, or by two rows",
    ]
    assert "ecret-" not in ended.err
    assert await operated.world.store.sims.get("8981100000000000099") is None
    nowhere = await airloom("sims", "import", str(file), "--operator", "OP9999999999")
    assert "operator_id: no open operator 'OP9999999999'" in nowhere.err


async def test_a_speed_class_that_contradicts_is_refused_until_its_customer_has_the_sim(
    operated: Operated, airloom: Airloom, tmp_path: Path
) -> None:
    file = tmp_path / "sims.csv"
    header, row = HEADER.strip(), ROWS[0].strip()
    file.write_text(f"{header}\n{row}\n")
    await airloom("sims", "import", str(file))
    operator = (await airloom("operators", "create", "--email", "a@b.c")).json["operator_id"]
    file.write_text(f"{header},speed_class\n{row},s1.fast\n")
    ended = await airloom("sims", "import", str(file), "--operator", operator)
    assert (ended.code, ended.out) == (1, "imported 0, registered 0, unchanged 0, refused 1\n")
    assert "iccid: already imported with a different speed_class" in ended.err
    await operated.world.services.sims.register(operator, "8981100000000000001", "secret-1")
    assert (await airloom("sims", "import", str(file))).out.endswith("unchanged 1, refused 0\n")


async def test_another_customers_sim_is_not_brought_in(
    operated: Operated, airloom: Airloom, tmp_path: Path
) -> None:
    one, other = [
        (await airloom("operators", "create", "--email", f"{name}@b.c")).json["operator_id"] for name in "ab"
    ]
    file = tmp_path / "sims.csv"
    file.write_text(HEADER + ROWS[0])
    await airloom("sims", "import", str(file), "--operator", one)
    ended = await airloom("sims", "import", str(file), "--operator", other)
    assert (ended.code, ended.out) == (1, "imported 0, registered 0, unchanged 0, refused 1\n")
    sim = await operated.world.store.sims.get("8981100000000000001")
    assert sim is not None
    assert sim.operator_id == one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + ROWS[0] + "1,8981,+81,x\n", "3: imsi: must be 6 to 15 digits"),
        (HEADER + ROWS[0] + "1,8981,+81,x\n", "3: registration_secret: must be 8 to 128"),
        (HEADER + "001010000000001,8981100000000000001,,\n", "2: registration_secret: required"),
        (HEADER + ROWS[0] + ROWS[0], "3: imsi: repeated; an earlier line has it"),
        (HEADER + "1,2\n", "2: 2 values for 4 columns"),
        ("imsi,iccid,puk\n", "1: unknown column 'puk'"),
        ("imsi,msisdn\n", "1: columns imsi, msisdn; the first line names columns"),
        ("imsi;iccid\n", "1: unknown column 'imsi;iccid'"),
        ('{"imsi": "001010000000001", "iccid": 8981}\n', "1: Expected `str`, got `int` - at `$.iccid`"),
        ('{"imsi": "001010000000001", "pin": "1"}\n', "1: "),
        ("", "1: columns"),
        (HEADER, "no rows"),
        ("imsi,iccid,speed_class\n001010000000001,8981100000000000001,s9\n", "2: speed_class: no such"),
        ("x" * 5_000, "lines must be shorter than 4,096 characters"),
        ("imsi,iccid\n\x00,\udcff\n", "2: imsi: must be"),
    ],
)
async def test_a_file_with_a_mistake_brings_nothing_in(
    operated: Operated, airloom: Airloom, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "sims.csv"
    file.write_bytes(text.encode(errors="surrogateescape"))
    ended = await airloom("sims", "import", str(file))
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert await operated.actions() == []
    assert await operated.world.store.sims.get("8981100000000000001") is None


async def test_json_lines_with_owners_in_several_batches(
    operated: Operated, airloom: Airloom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_command, "BATCH_ROWS", 2)
    operator = (await airloom("operators", "create", "--email", "ops@example.com")).json["operator_id"]
    rows = [
        {"imsi": f"00101000000000{n}", "iccid": f"898110000000000000{n}", "operator_id": operator}
        for n in range(5)
    ]
    file = tmp_path / "sims.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert (await airloom("sims", "import", str(file))).out == (
        "imported 5, registered 0, unchanged 0, refused 0\n"
    )
    sims = (await operated.world.store.sims.of_operator(operator)).items
    assert [sim.status for sim in sims] == [SimStatus.READY] * 5
    for sim in sims:  # without a secret only the operator registers it
        assert sim.registration_secret_sha256 == ""


# -- the socket -------------------------------------------------------------------------------------------


def test_the_socket_is_its_owners_alone_also_in_a_deep_folder(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a" * 40] * 4)
    deep.mkdir(parents=True)
    for folder in (tmp_path, deep):
        for _ in range(2):  # a killed process leaves it
            own = listening(folder)
            assert stat.S_IMODE((folder / SOCKET_FILE).stat().st_mode) == 0o600
            own.listen()
            with reachable(folder) as address:
                assert len(address) <= 107
                assert os.stat(address).st_ino == (folder / SOCKET_FILE).stat().st_ino
            own.close()


# -- attaches ---------------------------------------------------------------------------------------------


@played
async def test_a_sim_of_a_closed_operator_does_not_attach(stage: Stage) -> None:
    """Though its own status would let it: closing may not have come to it yet."""
    accounts = stage.node._world.store.accounts
    sim = stage.sims[0].sim
    assert await accounts.operator(sim.operator_id) is None
    now = stage.clock.now()
    operator = await accounts.put_operator(Operator(sim.operator_id, "a@b.c", now, now))
    peer: GtpPeer[Any] = stage._peer(PEERS["127.0.1.1"], "127.0.1.1")
    async with peer.running():
        await peer.attach(imsi=stage.imsi, apn=APN)
        await stage.node.held["vg-1"].sessions.end_sessions_of(sim.sim_id, CloseReason.CUSTOMER)
        await accounts.put_operator(replace(operator, closed=now))
        with pytest.raises(Refusal):
            await peer.attach(imsi=stage.imsi, apn=APN)
    attaches = [dict(held.sessions.opener.attaches) for held in stage.node.held.values()]
    assert AttachRefusal.SIM_TERMINATED.value in str(attaches)
