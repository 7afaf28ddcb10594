"""`airloom`, driven against a served API: verbs, outputs, profiles, and errors in one line."""

import asyncio
import io
import json
import os
import re
import stat
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web

from airloom.app import adapters
from airloom.cli.client import SHARE, Profile, load_profile, save_profile
from airloom.cli.program import app
from core.errors import Unavailable
from tests.support.api import ApiWorld, Tenant, make_world, served, tenants
from tests.support.cli import Airloom


@pytest.fixture
async def customer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ApiWorld, Tenant]]:
    """A customer whose auth key the command finds in its environment."""
    world = make_world()
    async with tenants(world) as (one, _):
        key = (await one.call("POST", f"/operators/{one.operator_id}/auth_keys")).body
        monkeypatch.setenv("AIRLOOM_ENDPOINT", one.endpoint)
        monkeypatch.setenv("AIRLOOM_AUTH_KEY_ID", key["authKeyId"])
        monkeypatch.setenv("AIRLOOM_AUTH_KEY", key["authKey"])
        yield world, one


async def test_a_sims_life(airloom: Airloom, customer: tuple[ApiWorld, Tenant]) -> None:
    world, one = customer
    made = (await airloom("sandbox", "subscribers", "create")).json
    sim_id = made["serialNumber"]
    secret = made["registrationSecret"]
    sims = ("sims",)
    this = ("--sim-id", sim_id)
    registered = await airloom(
        *sims, "register", *this, "--registration-secret", secret, "--tag", "name=pump"
    )
    assert registered.json["tags"] == {"name": "pump"}
    for verb, status in (
        ("activate", "active"),
        ("deactivate", "inactive"),
        ("set-to-standby", "standby"),
        ("suspend", "suspended"),
    ):
        assert (await airloom(*sims, verb, *this)).json["status"] == status
    group_id = (await airloom("groups", "create", "--tag", "name=pumps")).json["groupId"]
    assert (await airloom(*sims, "set-group", *this, "--group-id", group_id)).json["groupId"] == group_id
    listed = (await airloom("groups", "list-subscribers", "--group-id", group_id)).json
    assert [sim["simId"] for sim in listed] == [sim_id]
    parameter = '[{"key": "userdata", "value": "pumps"}]'
    configured = await airloom(
        "groups", "put-config", "--group-id", group_id, "--namespace", "SoracomAir", "--body", parameter
    )
    assert configured.json["configuration"]["SoracomAir"] == {"userdata": "pumps"}
    assert (await airloom("groups", "put-tags", "--group-id", group_id, "--tag", "a=b")).code == 0
    assert (await airloom("groups", "get", "--group-id", group_id)).json["tags"]["a"] == "b"
    assert [group["groupId"] for group in (await airloom("groups", "list")).json] == [group_id]
    assert "groupId" not in (await airloom(*sims, "unset-group", *this)).json
    assert (await airloom("groups", "delete", "--group-id", group_id)).out == ""
    assert (await airloom(*sims, "put-tags", *this, "--tag", "site=n=1")).json["tags"]["site"] == "n=1"
    assert (await airloom(*sims, "delete-tag", *this, "--tag-name", "site")).code == 0
    faster = await airloom(*sims, "update-speed-class", *this, "--speed-class", "s1.fast")
    assert faster.json["speedClass"] == "s1.fast"
    stored = await world.store.sims.get(sim_id)
    assert stored is not None
    await world.connect(stored)
    locked = await airloom(*sims, "set-imei-lock", *this, "--imei", "490154203237518")
    assert locked.json["imeiLock"] == {"imei": "490154203237518"}
    assert "imeiLock" not in (await airloom(*sims, "unset-imei-lock", *this)).json
    assert (await airloom(*sims, "delete-session", *this)).code == 0
    events = (await airloom(*sims, "session-events", *this, "--limit", "10")).json
    assert [event["event"] for event in events] == ["Deleted", "Created"]
    assert (await airloom(*sims, "terminate", *this)).code == 1
    assert (await airloom(*sims, "enable-termination", *this)).json["terminationEnabled"] is True
    assert (await airloom(*sims, "disable-termination", *this)).json["terminationEnabled"] is False
    assert (await airloom(*sims, "get", *this)).json["simId"] == sim_id
    assert (await airloom("stats", "air", "sims", "get", *this, "--from", "2026-01-01")).json == []
    assert one.operator_id == (await airloom("operator", "get")).json["operatorId"]


async def test_bills_and_keys(airloom: Airloom, customer: tuple[ApiWorld, Tenant]) -> None:
    world, one = customer
    month = world.clock.now().strftime("%Y%m")
    assert (await airloom("bills", "get-latest")).json["amount"] == 0
    assert (await airloom("bills", "get", "--yyyy-mm", month)).json["yearMonth"] == month
    assert (await airloom("bills", "get-daily", "--yyyy-mm", month)).json == {"billList": []}
    assert (await airloom("bills", "list")).code == 0
    assert (await airloom("bills", "export", "--yyyy-mm", month)).json["url"].startswith(one.endpoint)
    made = (await airloom("operator", "auth-keys", "generate")).json
    listed = await airloom("operator", "auth-keys", "list")
    assert made["authKeyId"] in listed.out
    assert made["authKey"] not in listed.out
    deleted = await airloom("operator", "auth-keys", "delete", "--auth-key-id", made["authKeyId"])
    assert deleted.code == 0
    assert (await airloom("auth")).json["operatorId"] == one.operator_id


async def test_all_pages_and_each_output(airloom: Airloom, customer: tuple[ApiWorld, Tenant]) -> None:
    _, one = customer
    made = sorted([(await one.new_sim())["simId"] for _ in range(5)])
    page = (await airloom("sims", "list", "--limit", "2")).json
    assert [sim["simId"] for sim in page] == made[:2]
    every = await airloom("--output", "jsonl", "sims", "list", "--limit", "2", "--fetch-all")
    assert [json.loads(line)["simId"] for line in every.out.splitlines()] == made
    table = await airloom("--output", "table", "sims", "list")
    assert table.out.split()[:4] == ["simId", "name", "status", "speedClass"]
    assert all(sim_id in table.out for sim_id in made)


async def test_options_of_every_command_may_stand_behind_it(
    airloom: Airloom, customer: tuple[ApiWorld, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one = customer
    sim_id = (await one.new_sim())["simId"]
    for arguments in (
        ("sims", "list", "--output", "jsonl"),
        ("sims", "list", "--limit", "5", "--output=jsonl"),
        ("sims", "--output", "jsonl", "list"),
    ):
        assert json.loads((await airloom(*arguments)).out)["simId"] == sim_id
    endpoint = ("--endpoint", one.endpoint)
    monkeypatch.setenv("AIRLOOM_ENDPOINT", "http://127.0.0.1:1")
    assert (await airloom("sims", "get", sim_id, *endpoint, "--output", "json")).json["simId"] == sim_id
    made = (await airloom("operator", "auth-keys", "generate", *endpoint)).json["authKeyId"]
    own = await airloom("operator", "auth-keys", "delete", "--auth-key-id", made, *endpoint)
    assert own.code == 0, "the command's own option of this name"
    wrong = await airloom("sims", "list", "--outptu", "json")
    assert wrong.code == 2
    assert "--output" in wrong.err or "No such option" in wrong.err


async def test_an_option_that_a_command_would_ignore_is_refused(
    airloom: Airloom, customer: tuple[ApiWorld, Tenant]
) -> None:
    endpoint = ("--endpoint", "http://127.0.0.1:1")
    for arguments in (
        ("gateway", "peers", "--output", "json"),
        ("--output", "jsonl", "billing", "late"),
        ("node", "status", *endpoint),
        ("--profile", "prod", "store", "check"),
        ("stream", "tail", "--auth-key", "secret-1"),
        ("operators", "list", *endpoint),
        ("sims", "import", "sims.csv", *endpoint),
        ("sims", "import", "sims.csv", "--output", "json"),
    ):
        ended = await airloom(*arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert "not an option of airloom" in ended.err


async def test_a_secret_may_come_by_stdin(
    airloom: Airloom, customer: tuple[ApiWorld, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await airloom("sandbox", "subscribers", "create")).json
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{made['registrationSecret']}\n"))
    registered = await airloom("sims", "register", made["serialNumber"], "--registration-secret", "-")
    assert registered.json["simId"] == made["serialNumber"]
    group_id = (await airloom("groups", "create")).json["groupId"]
    monkeypatch.setattr("sys.stdin", io.StringIO('[{"key": "userdata",\n"value": "pumps"}]\n'))
    air = ("--namespace", "SoracomAir", "--body", "-")
    configured = await airloom("groups", "put-config", "--group-id", group_id, *air)
    assert configured.json["configuration"]["SoracomAir"] == {"userdata": "pumps"}


async def test_an_id_may_stand_by_itself(airloom: Airloom, customer: tuple[ApiWorld, Tenant]) -> None:
    world, one = customer
    sim_id = (await one.new_sim())["simId"]
    assert (await airloom("sims", "get", sim_id)).json["simId"] == sim_id
    for arguments in ((sim_id, "--speed-class", "s1.fast"), ("--speed-class", "s1.fast", sim_id)):
        faster = await airloom("sims", "update-speed-class", *arguments)
        assert faster.json["speedClass"] == "s1.fast"
    group_id = (await airloom("groups", "create")).json["groupId"]
    assert (await airloom("groups", "get", group_id)).json["groupId"] == group_id
    both = await airloom("sims", "set-group", sim_id, "--group-id", group_id)
    assert both.json["groupId"] == group_id
    month = world.clock.now().strftime("%Y%m")
    assert (await airloom("bills", "get", month)).json["yearMonth"] == month
    assert (await airloom("sims", "get", sim_id, "more")).code == 2
    assert (await airloom("sims", "list", sim_id)).code == 2


async def test_a_table_is_for_people(airloom: Airloom, customer: tuple[ApiWorld, Tenant]) -> None:
    world, one = customer
    table = ("--output", "table")
    empty = await airloom("sims", "list", *table)
    assert (empty.code, empty.out, empty.err) == (0, "", "none found\n")
    sim_id = (await one.new_sim())["simId"]
    tags = [{"tagName": "name", "tagValue": "pump"}, {"tagName": "site", "tagValue": "n"}]
    await one.call("PUT", f"/sims/{sim_id}/tags", tags)
    rows = [
        line.split(maxsplit=1) for line in (await airloom("sims", "get", sim_id, *table)).out.splitlines()
    ]
    shown = {row[0]: row[1].strip() for row in rows if len(row) == 2}
    assert shown["createdTime"] == f"{world.clock.now():%Y-%m-%d %H:%M:%SZ}"
    assert (shown["tags.name"], shown["sessionStatus.online"]) == ("pump", "no")
    assert not [value for value in shown.values() if "{" in value]
    assert "USD" in (await airloom("bills", "get-latest", *table)).out
    await airloom("groups", "create", "--tag", "a=b", "--tag", "c=d")
    assert "a=b, c=d" in (await airloom("groups", "list", *table)).out
    await one.new_sim()
    cut = await airloom("sims", "list", "--limit", "1")
    assert cut.err == "showing the first 1; use --fetch-all to list all\n"
    assert (await airloom("sims", "list", "--limit", "1", "--fetch-all")).err == ""


async def test_a_bill_goes_into_a_file(
    airloom: Airloom, customer: tuple[ApiWorld, Tenant], tmp_path: Path
) -> None:
    world, _ = customer
    month = world.clock.now().strftime("%Y%m")
    file, folder = tmp_path / "bill.csv", tmp_path / "folder"
    file.write_text("old")
    file.chmod(0o644)
    ended = await airloom("bills", "export", month, "--out", str(file))
    assert (ended.code, ended.out) == (0, "")
    assert file.read_bytes().startswith(b"\xef\xbb\xbfimsi,date")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folder.mkdir()
    for out in (tmp_path / "none" / "bill.csv", folder):
        refused = await airloom("bills", "export", month, "--out", str(out))
        assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    ignored = await airloom("bills", "export", month, "--out", str(file), "--export-mode", "async")
    assert (ignored.code, "--export-mode async returns an id and no file" in ignored.err) == (2, True)
    assert sorted(os.listdir(tmp_path)) == ["bill.csv", "folder"]
    assert os.listdir(folder) == []


async def test_whatever_a_command_makes_is_its_users_alone(
    airloom: Airloom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOOM_NODE__DATA_DIR", str(tmp_path))
    before = os.umask(0)
    try:
        assert (await airloom("store", "audit", "2026-11-30")).code == 0
    finally:
        os.umask(before)
    made = await asyncio.to_thread(lambda: [*tmp_path.rglob("*")])
    assert len(made) >= 1
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []


async def test_a_store_that_does_not_answer_is_one_line(
    airloom: Airloom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> object:
        raise Unavailable("the store does not answer")

    monkeypatch.setenv("AIRLOOM_NODE__DATA_DIR", str(tmp_path))
    monkeypatch.setattr(adapters, "open_store", away)
    ended = await airloom("store", "audit", "2026-11-30")
    assert (ended.code, ended.err) == (69, "airloom: the store does not answer\n")


async def test_the_version_is_that_of_the_package(airloom: Airloom) -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    told = await airloom("--version")
    assert (told.code, told.out) == (0, f"airloom {project['version']}\n")


async def test_a_profile_that_is_not_there_is_named_beside_those_that_are(
    airloom: Airloom, customer: tuple[ApiWorld, Tenant]
) -> None:
    assert "known: none);" in (await airloom("--profile", "nope", "sims", "list")).err
    for name in ("default", "prod"):
        assert (await airloom("--profile", name, "configure")).code == 0
    ended = await airloom("sims", "list", "--profile", "nope")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "airloom: profile 'nope': does not exist (known: default, prod);"
        " save it with: airloom --profile nope configure\n"
    )
    assert (await airloom("sims", "list", "--profile", "prod")).code == 0


async def test_an_operator_sees_tariffs_and_late_usage(
    airloom: Airloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "tariffs": [{"version": 1, "valid_until": None}],
        "late": [{"month": 202610, "quantity_bytes": 7}],
    }

    async def billing(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer of all nodes 16 long"
        return web.json_response(told)

    node = web.Application()
    node.router.add_get("/control/billing", billing)
    monkeypatch.setenv("AIRLOOM_CONTROL__SECRET", "of all nodes 16 long")
    async with served(node) as endpoint:
        for name in ("tariffs", "late"):
            assert (await airloom("billing", name, "--contact", endpoint, "--json")).json == told[name]


async def test_hostile_text_reaches_no_terminal(airloom: Airloom, customer: tuple[ApiWorld, Tenant]) -> None:
    _, one = customer
    sim_id = (await one.new_sim())["simId"]
    evil = "\x1b[31m[red]\u202e\n"
    await one.call("PUT", f"/sims/{sim_id}/tags", [{"tagName": "name", "tagValue": evil}])
    for arguments in (("sims", "get", "--sim-id", sim_id), ("sims", "list")):
        shown = await airloom("--output", "table", *arguments)
        assert shown.code == 0
        assert not {"\x1b", "\u202e"} & set(shown.out)
    assert (await airloom("--output", "json", "sims", "get", "--sim-id", sim_id)).json["tags"]["name"] == evil


async def test_a_command_waits_for_its_share_of_the_api_but_not_for_long(
    airloom: Airloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = ["1", "31", "soon", None, "2"]
    refused: list[str | None] = []

    async def sign_in(_: web.Request) -> web.Response:
        return web.json_response({"apiKey": "a", "token": "t", "operatorId": "OP0000000001"})

    async def sims(_: web.Request) -> web.Response:
        if len(refused) % 2:
            refused.append(None)
            return web.json_response([])
        refused.append(waits[len(refused) // 2])
        wait = refused[-1]
        return web.json_response(
            {"code": "AIR0012", "message": "Too many calls."},
            status=429,
            headers={"Retry-After": wait or ""} | ({} if wait == "2" else {SHARE: "0"}),
        )

    node = web.Application()
    node.add_routes([web.post("/v1/auth", sign_in), web.get("/v1/sims", sims)])
    monkeypatch.setenv("AIRLOOM_AUTH_KEY_ID", "keyId-1")
    monkeypatch.setenv("AIRLOOM_AUTH_KEY", "secret-1")
    async with served(node) as endpoint:
        monkeypatch.setenv("AIRLOOM_ENDPOINT", endpoint)
        waited = await airloom("sims", "list")
        assert (waited.json, waited.err) == ([], "rate limited: retrying in 1 s\n")
        for _ in waits[1:]:
            told = await airloom("sims", "list")
            assert (told.code, told.err) == (1, "airloom: AIR0012: Too many calls. (HTTP 429)\n")
            refused.append(None)


async def test_errors_are_one_line_with_a_code_of_their_own(
    airloom: Airloom, customer: tuple[ApiWorld, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = await airloom("sims", "get", "--sim-id", "none")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "airloom: AIR0003: No such SIM found. (HTTP 404)\n"
    wrong = await airloom("stats", "air", "sims", "get", "--sim-id", "1", "--from", "tomorrow")
    assert wrong.code == 2
    assert wrong.err == "airloom: --from 'tomorrow': a day as 2026-01-31, or seconds since 1970\n"
    assert (await airloom("sims", "put-tags", "--sim-id", "1", "--tag", "x")).err.startswith(
        "airloom: 'x': must be"
    )
    assert (await airloom("sims", "get")).code == 2
    assert (await airloom("sims", "frobnicate")).code == 2
    assert (await airloom("--auth-key-id", "keyId-1", "--auth-key", "secret-1", "sims", "list")).code == 77
    monkeypatch.delenv("AIRLOOM_AUTH_KEY")
    halved = await airloom("sims", "list")
    assert (halved.code, halved.err) == (2, "airloom: --auth-key-id and --auth-key must be given together\n")
    monkeypatch.delenv("AIRLOOM_AUTH_KEY_ID")
    assert "airloom configure" in (await airloom("sims", "list")).err
    unreachable = await airloom(
        "--endpoint",
        "http://127.0.0.1:1",
        "--auth-key-id",
        "keyId-1",
        "--auth-key",
        "secret-1",
        "sims",
        "list",
    )
    assert unreachable.code == 69
    assert unreachable.err == (
        "airloom: http://127.0.0.1:1: cannot connect: Connection refused; check that the API is running,"
        " or give its address with --endpoint\n"
    )
    halved = await airloom("--endpoint", "127.0.0.1:1", "sims", "list")
    assert (halved.code, halved.err) == (2, "airloom: endpoint '127.0.0.1:1': expected http://HOST:PORT\n")


async def test_configure_asks_for_what_is_not_given(
    airloom: Airloom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"endpoint": "http://10.0.0.12:8080", "auth key id": "keyId-1", "auth key": "secret-1"}
    monkeypatch.setattr("typer.prompt", lambda what, **_: answers[what])
    file = tmp_path / "profiles" / "default.json"
    for secret in ("secret-1", "secret-2"):
        answers["auth key"] = secret
        told = await airloom("configure")
        assert (told.code, told.err) == (0, f"saved {file}, for http://10.0.0.12:8080\n")
        wanted = {"endpoint": "http://10.0.0.12:8080", "authKeyId": "keyId-1", "authKey": secret}
        assert json.loads(file.read_text()) == wanted
    answers["endpoint"] = "10.0.0.12:8080"
    assert "expected http://HOST:PORT" in (await airloom("configure")).err
    del answers["endpoint"]
    assert (await airloom("--endpoint", "http://10.0.0.13:8080", "configure")).code == 0
    assert json.loads(file.read_text())["endpoint"] == "http://10.0.0.13:8080"


async def test_what_is_no_api_of_ours(airloom: Airloom) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(status=500, text="<html>\x1b[2J")

    elsewhere = web.Application()
    elsewhere.router.add_route("*", "/{rest:.*}", page)
    async with served(elsewhere) as endpoint:
        ended = await airloom(
            "--endpoint", endpoint, "--auth-key-id", "keyId-1", "--auth-key", "secret-1", "sims", "list"
        )
    assert (ended.code, ended.err) == (1, "airloom: HTTP 500; is this an Airloom or SORACOM API?\n")


async def test_a_profile_is_its_owners_alone(
    airloom: Airloom, customer: tuple[ApiWorld, Tenant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await airloom("configure")).code == 0
    file = tmp_path / "profiles" / "default.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for name in ("AIRLOOM_ENDPOINT", "AIRLOOM_AUTH_KEY_ID", "AIRLOOM_AUTH_KEY"):
        monkeypatch.delenv(name)
    assert (await airloom("sims", "list")).json == []
    file.chmod(0o644)
    ended = await airloom("sims", "list")
    assert (ended.code, ended.err) == (2, f"airloom: {file} can be read by others; run: chmod 600 {file}\n")
    file.chmod(0o600)
    file.write_text("{")
    assert (await airloom("sims", "list")).code == 2
    assert (await airloom("--profile", "../x", "sims", "list")).code == 2


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    profile = Profile(endpoint="http://x", authKeyId="keyId-1", authKey="secret-1")
    save_profile(tmp_path / "a.json", profile)
    assert load_profile(tmp_path / "a.json") == profile
    assert load_profile(tmp_path / "absent.json") == Profile()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


async def test_signing_up_takes_two_commands(airloom: Airloom, customer: tuple[ApiWorld, Tenant]) -> None:
    account = ("--email", "new@example.com", "--password", "Aa1-correct-horse")
    made = await airloom("sandbox", "init", *account)
    assert made.json["operatorId"].startswith("OP")
    assert "Aa1-correct-horse" not in made.out
    assert (await airloom("configure", *account)).code == 0


def commands(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command by its words."""
    children = getattr(command, "commands", None)
    if children is None:
        return {" ".join(path): command}
    return {
        key: found
        for name, child in children.items()
        for key, found in commands(child, (*path, name)).items()
    }


COMMANDS = commands(typer.main.get_command(app))
GLOBAL_OPTIONS = re.compile(r"airloom (?:--[\w-]+ \S+ )+")


@pytest.mark.parametrize("words", COMMANDS)
def test_each_command_teaches_by_an_example(words: str) -> None:
    command = COMMANDS[words]
    text = GLOBAL_OPTIONS.sub("airloom ", " ".join(command.help.split()))
    assert f"Example: airloom {words}" in text
    assert [paragraph for paragraph in command.help.split("\n\n") if "\n" in paragraph] == []
    assert [p.name for p in command.params if not getattr(p, "help", "") and p.name != "help"] == []
