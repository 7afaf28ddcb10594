"""`airloom gateway` before a whole node, over its control channel: what an operator sees and does."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from airloom.app.measuring import make_telemetry
from airloom.app.operated import make_operations
from airloom.app.readiness import NodeReadiness
from airloom.app.serving import add_metrics, make_control_channel, make_customers
from api.operator.operations import TRACED_MAX, TRACES_MAX, TraceQuery
from core.config import Config, ControlConfig, GatewayConfig
from core.domain.session import CloseReason
from core.errors import ConfigurationError, Unavailable
from gtp.userplane.counter_table import table_bytes
from gtp.v2.cause import Cause
from loadtest.peers.gtp import GtpPeer, Refusal
from loadtest.peers.sgw import Sgw
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import PERFECT
from loadtest.simulation.world import APN, PEERS
from tests.node.test_radius_front_end import Stage
from tests.support.cli import Airloom

SECRET = "a secret of all nodes"
SGSN, SGW = "127.0.1.1", "127.0.2.1"


class Watched:
    """A node in real time with an SGSN and an SGW, and its control channel on a port."""

    def __init__(self, stage: Stage, stack: AsyncExitStack) -> None:
        self.stage = stage
        self.stack = stack
        self.operations = make_operations(stage.node, usage=stage.node._world.store.usage, clock=stage.clock)
        self.url = ""
        self.wanted = stage.node._config
        """What it finds when it reads its configuration again."""

    async def metrics(self) -> dict[str, float]:
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    async def peer(self, address: str) -> GtpPeer:  # type: ignore[type-arg] # of either version
        peer = self.stage._peer(PEERS[address], address)
        return await self.stack.enter_async_context(peer.running())

    def imsi(self, number: int = 0) -> str:
        return self.stage.sims[number].imsi


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """It runs; the command finds it by its environment."""
    stage = Stage(0, Plan(sims=3, network=PERFECT, quarantine_s=0.0))
    await stage.start_node()
    await stage._make_sims()
    config = Config(control=ControlConfig.model_validate({"secret": SECRET}))
    async with AsyncExitStack() as stack:
        adapters = stage._adapters(stage._life, "x")
        customers, found = make_customers(config, adapters, stage.node), Watched(stage, stack)

        async def reload() -> list[str]:
            return stage.node.reload(found.wanted)

        adapters = stage._adapters(stage._life, "x")
        channel = make_control_channel(
            config,
            adapters,
            stage.node,
            customers,
            readiness=NodeReadiness(config=config, adapters=adapters, node=stage.node),
            drain=lambda: None,
            reload=reload,
        )
        add_metrics(channel, make_telemetry(stage.node, customers.guesses))
        runner = web.AppRunner(channel, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        (address,) = runner.addresses
        monkeypatch.setenv("AIRLOOM_CONTROL__PORT", str(address[1]))
        monkeypatch.setenv("AIRLOOM_CONTROL__SECRET", SECRET)
        found.url = f"http://127.0.0.1:{address[1]}"
        yield found
    for state in stage.sims:
        await (await stage.holding()).sessions.end_sessions_of(state.sim.sim_id, CloseReason.CUSTOMER)
    await stage.crash()


async def test_status_tells_what_is_held_what_waits_and_what_was_dropped(
    watched: Watched, airloom: Airloom
) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    await sgsn.attach(imsi=watched.imsi(0), apn=APN)
    await sgw.attach(imsi=watched.imsi(1), apn=APN)
    told = (await airloom("gateway", "status", "--json", "--over", "0.01")).json
    (gateway,) = told["gateways"]
    assert (gateway["id"], gateway["restart_counter"]) == ("vg-1", 1)
    assert gateway["sessions"] == {"gtpv1": 1, "gtpv2": 1, "radius": 0}
    assert gateway["attaches"]["gtpv2"] == {"accepted": 1}
    assert gateway["paths"] == {"up": 2}
    watched.stage.node.held["vg-1"].gtp._receive(b"\x32", (SGSN, 2123))
    shown = await airloom("gateway", "status", "--over", "0")
    assert shown.code == 0
    assert "sessions: gtpv1 1, gtpv2 1, radius 0" in shown.out
    assert "addresses: common 2\n" in shown.out
    assert "dropped gtpv1 malformed_header: 1" in shown.out


async def test_status_tells_rates(watched: Watched, airloom: Airloom) -> None:
    interface = watched.stage.node.held["vg-1"].gtp

    async def send() -> None:
        while True:
            interface._receive(b"\x32", (SGSN, 2123))
            await asyncio.sleep(0.01)

    sending = asyncio.create_task(send())
    told = (await airloom("gateway", "status", "--json", "--over", "0.3")).json
    sending.cancel()
    assert told["gateways"][0]["per_s"]["dropped.gtpv1.malformed_header"] > 5


async def test_peers_are_told_with_path_counter_and_sessions(watched: Watched, airloom: Airloom) -> None:
    sgw = await watched.peer(SGW)
    await sgw.attach(imsi=watched.imsi(), apn=APN)
    (row,) = (await airloom("gateway", "peers", "--json")).json
    assert (row["access"], row["address"], row["partner"]) == ("gtpv2", SGW, "other")
    assert (row["path"], row["restart_counter"], row["sessions"]) == ("up", 7, 1)
    assert 0 <= row["heard_s_ago"] < 60


async def test_a_restart_counter_that_differs_is_seen_and_a_dropped_peer_begins_anew(
    watched: Watched, airloom: Airloom
) -> None:
    sgsn = await watched.peer(SGSN)
    await sgsn.attach(imsi=watched.imsi(0), apn=APN)
    sgsn.restart(3)
    with watched.operations.trace(TraceQuery(imsi=watched.imsi(1))) as messages:
        await sgsn.attach(imsi=watched.imsi(1), apn=APN)
        create = await messages.get()
    assert (create["elements"]["recovery"], create["elements"]["restart_counter_known"]) == ("3", "7")
    (row,) = (await airloom("gateway", "peers", "--json")).json
    assert (row["restart_counter"], row["restart_counter_heard"]) == (7, 3)
    assert row["restart"] in ("asked", "proved_once")
    await airloom("gateway", "drop-peer", SGSN, "--yes")
    await sgsn.attach(imsi=watched.imsi(2), apn=APN)
    (row,) = (await airloom("gateway", "peers", "--json")).json
    assert (row["restart_counter"], row["restart"]) == (3, "agreed")


async def test_healthy_traffic_is_counted_as_served_and_not_as_dropped(watched: Watched) -> None:
    sgsn, state = await watched.peer(SGSN), watched.stage.sims[0]
    context = await sgsn.attach(imsi=state.imsi, apn=APN)
    state.peer, state.context = sgsn, context
    watched.stage.owner_of[context.ue_address] = state.imsi
    assert await watched.stage._device(state, context).send() == b"200"
    metrics = await watched.metrics()
    assert [name for name, value in metrics.items() if "datagrams_dropped" in name and value] == []
    assert metrics['airloom_edge_datagrams_total{result="accepted"}'] == 1
    assert metrics['airloom_edge_datagrams_total{result="answered"}'] == 1


async def test_usage_that_is_billed_to_nobody_is_listed(watched: Watched, airloom: Airloom) -> None:
    nas = await watched.stack.enter_async_context(watched.stage._nas("127.0.3.1", 0).running())
    session = await nas.attach(imsi=watched.imsi(), apn=APN)
    session.carry(5 << 40, 7)
    await nas.report(session)
    day = watched.stage.clock.now().strftime("%Y%m%d")
    (row,) = (await airloom("node", "quarantined", day)).json
    assert (row["client"], row["imsi"], row["up_bytes"]) == ("127.0.3.0/24", watched.imsi(), 5 << 40)
    assert row["acct_session_id"] == session.acct_session_id
    assert (await airloom("node", "quarantined", "yesterday")).code == 1
    metrics = await watched.metrics()
    assert metrics['airloom_radius_answers_total{answer="quarantined",client="127.0.3.0/24"}'] == 1


async def test_sessions_are_found_by_what_they_are_a_page_at_a_time(
    watched: Watched, airloom: Airloom
) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    for number in range(3):
        await (sgsn if number else sgw).attach(imsi=watched.imsi(number), apn=APN)
    pages, after = [], ""
    while True:
        page = (await airloom("gateway", "sessions", "--json", "--limit", "2", "--after", after)).json
        pages.append([row["imsi"] for row in page["sessions"]])
        if page["next"] is None:
            break
        after = page["next"]
    assert [len(page) for page in pages] == [2, 1]
    assert sorted(imsi for page in pages for imsi in page) == [watched.imsi(number) for number in range(3)]
    for asked, found in (
        (("--imsi", watched.imsi(2)), [watched.imsi(2)]),
        (("--access", "gtpv2"), [watched.imsi(0)]),
        (("--peer", SGSN), [watched.imsi(1), watched.imsi(2)]),
        (("--peer", "other"), [watched.imsi(number) for number in range(3)]),
        (("--apn", "no.such"), []),
    ):
        page = (await airloom("gateway", "sessions", "--json", *asked)).json
        assert sorted(row["imsi"] for row in page["sessions"]) == found
    assert "more: --after " in (await airloom("gateway", "sessions", "--limit", "1")).err


async def test_a_trace_shows_one_sims_signalling_and_nothing_else(watched: Watched, airloom: Airloom) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    before = await sgsn.attach(imsi=watched.imsi(0), apn=APN)
    with watched.operations.trace(TraceQuery(imsi=watched.imsi(0))) as messages:
        await sgsn.echo()
        other = await sgw.attach(imsi=watched.imsi(1), apn=APN)
        await sgsn.detach(before)
        mine = await sgw.attach(imsi=watched.imsi(0), apn=APN)
        moved = await sgsn.take_over(mine)
        await sgw.detach(other)
        await watched.stage.node.held["vg-1"].sessions.end_sessions_of(
            watched.stage.sims[0].sim.sim_id, CloseReason.CUSTOMER
        )
        await asyncio.sleep(0.2)
        assert moved.ended_by_gateway
    rows = [messages.get_nowait() for _ in range(messages.qsize())]
    ended = [row for row in rows if row["message"] == "session ended"]
    assert [(row["cause"], row["elements"]["imsi"]) for row in ended] == [
        ("device", watched.imsi(0)),
        ("customer", watched.imsi(0)),
    ]
    assert ended[1]["elements"]["address"] == str(mine.ue_address)
    assert rows[1] is ended[0], "when it is over, and then its peer is answered"
    rows = [row for row in rows if row not in ended]
    assert [(row["version"], row["direction"], row["message"]) for row in rows] == [
        (1, "in", "delete pdp context request"),
        (1, "out", "delete pdp context response"),
        (2, "in", "create session request"),
        (2, "out", "create session response"),
        (1, "in", "update pdp context request"),
        (1, "out", "update pdp context response"),
        (1, "out", "delete pdp context request"),
        (1, "in", "delete pdp context response"),
    ]
    assert rows[1]["cause"] == "128 request accepted"
    assert rows[3]["cause"] == "16 request accepted"
    assert rows[2]["elements"]["imsi"] == watched.imsi(0)
    assert rows[2]["elements"]["apn"] == APN
    assert rows[2]["elements"]["bearer context: ebi"] == "5"
    assert rows[3]["elements"]["paa"] == f"IPv4 {mine.ue_address}"
    assert watched.stage.node.held["vg-1"].gtp._taps == [], "nothing is paid for when nobody looks"


async def test_a_trace_of_a_partner_and_of_what_is_refused(watched: Watched, airloom: Airloom) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    trace = watched.operations.trace
    with (
        trace(TraceQuery(partner=SGSN)) as of_peer,
        trace(TraceQuery(partner="other")) as of_partner,
        trace(TraceQuery(refused=True)) as refused,
        trace(TraceQuery(imsi=watched.imsi(1), refused=True)) as none_refused,
    ):
        context = await sgsn.attach(imsi=watched.imsi(0), apn=APN)
        await sgw.attach(imsi=watched.imsi(1), apn=APN)
        for peer in (sgsn, sgw):
            with pytest.raises(Refusal):
                await peer.attach(imsi=watched.imsi(2), apn="no.such")
        await sgsn.detach(context)

    def seen(rows: "asyncio.Queue[dict[str, Any]]") -> list[tuple[str, str]]:
        found = [rows.get_nowait() for _ in range(rows.qsize())]
        return [(row["message"], row["cause"].partition(" ")[0]) for row in found]

    create, delete = "create pdp context", "delete pdp context"
    refusal = [(f"{create} request", ""), (f"{create} response", "219")]
    assert seen(of_peer) == [
        (f"{create} request", ""),
        (f"{create} response", "128"),
        *refusal,
        (f"{delete} request", ""),
        ("session ended", "device"),
        (f"{delete} response", "128"),
    ]
    assert len(seen(of_partner)) == 7 + 4
    assert seen(refused) == [*refusal, ("create session request", ""), ("create session response", "78")]
    assert seen(none_refused) == []
    assert watched.stage.node.held["vg-1"].gtp._end_taps == []
    unnamed = await airloom("gateway", "trace")
    assert (unnamed.code, "nothing to trace" in unnamed.err) == (2, True)


async def test_sessions_are_found_by_address_msisdn_and_teid(watched: Watched, airloom: Airloom) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    for peer, number in ((sgsn, 0), (sgw, 1)):
        await peer.attach(imsi=watched.imsi(number), apn=APN)
    for session in watched.stage.open_sessions():
        tunnel = session.tunnel
        assert tunnel is not None
        wanted = [("--address", str(session.ue_address))]
        wanted += [
            ("--teid", teid)
            for teid in (
                f"0x{tunnel.local_teid_control:08x}",
                str(tunnel.local_teid_user),
                hex(tunnel.peer_teid_user),
            )
        ]
        wanted += [("--msisdn", session.msisdn)] if session.msisdn else []
        for query in wanted:
            told = (await airloom("gateway", "sessions", *query, "--json")).json
            found = {row["session_id"] for row in told["sessions"]}
            assert session.session_id in found, query
            assert len(found) == 1 or query[0] == "--teid", "a peer's TEIDs are its own alone"
    assert (await airloom("gateway", "sessions", "--address", "2001:db8::1", "--json")).json["sessions"] == []
    assert (await airloom("gateway", "sessions", "--msisdn", "1", "--json")).json["sessions"] == []
    for option, problem in (("--address", "no address"), ("--teid", "must be a number")):
        ended = await airloom("gateway", "sessions", option, "no address")
        assert (ended.code, problem in ended.err) == (1, True)


async def test_a_bearer_for_a_device_that_sleeps_is_made_with_its_next_packet(
    watched: Watched, airloom: Airloom
) -> None:
    sgw = await watched.peer(SGW)
    context = await sgw.attach(imsi=watched.imsi(), apn=APN)
    assert isinstance(sgw, Sgw)
    sgw.verdict = Cause.UE_IS_TEMPORARILY_NOT_REACHABLE_DUE_TO_POWER_SAVING
    (session,) = watched.stage.open_sessions()
    wanted = ("--qci", "7", "--filter", "protocol=udp", "--json")
    adding = asyncio.ensure_future(airloom("gateway", "bearer", "add", session.session_id, *wanted))

    def put_off() -> dict[str, int]:
        (gateway,) = watched.operations.status()["gateways"]
        return dict(gateway["put_off"])

    async with asyncio.timeout(20):
        while put_off() != {"gtpv1": 0, "gtpv2": 1}:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert not adding.done(), "it is no refusal"
    sgw.verdict = Cause.REQUEST_ACCEPTED
    device = watched.stage._device(watched.stage.sims[0], context)
    sgw.send_up(context, device._packet(b"awake", 50_000))
    assert (await adding).json["qci"] == 7
    assert [each.qci for each in watched.stage.open_sessions()[0].dedicated] == [7]
    assert put_off() == {"gtpv1": 0, "gtpv2": 0}


async def test_a_trace_that_is_not_read_is_bounded_and_says_what_it_left_out(watched: Watched) -> None:
    sgsn = await watched.peer(SGSN)
    context = await sgsn.attach(imsi=watched.imsi(), apn=APN)
    interface = watched.stage.node.held["vg-1"].gtp
    with watched.operations.trace(TraceQuery(imsi=watched.imsi())) as messages:
        data = struct.pack("!BBHIHH", 0x32, 20, 4, context.peer_teid_control, 9, 0)
        for _ in range(TRACED_MAX):
            interface._receive(data, (SGSN, 2123))
        assert messages.qsize() == TRACED_MAX
        interface._receive(data, (SGSN, 2123))
        while not messages.empty():
            messages.get_nowait()
        interface._receive(data, (SGSN, 2123))
        assert messages.get_nowait()["left_out_before"] > 0
    with ExitStack() as traces:
        for _ in range(TRACES_MAX):
            traces.enter_context(watched.operations.trace(TraceQuery(imsi="1")))
        with pytest.raises(Unavailable, match="16 traces"):
            traces.enter_context(watched.operations.trace(TraceQuery(imsi="1")))


async def test_a_live_trace_and_its_pcap(watched: Watched, airloom: Airloom, tmp_path: Path) -> None:
    sgw, file = await watched.peer(SGW), tmp_path / "sim.pcap"
    file.touch(mode=0o644)

    async def signal() -> None:
        while not watched.stage.node.held["vg-1"].gtp._taps:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        await sgw.detach(await sgw.attach(imsi=watched.imsi(), apn=APN))

    signalling = asyncio.create_task(signal())
    shown = await airloom("gateway", "trace", watched.imsi(), "--pcap", str(file), "--count", "4")
    await signalling
    assert shown.code == 0
    lines = [line for line in shown.out.splitlines() if not line.startswith(" ")]
    assert [line.split(" ", 1)[1].split(" seq ")[0] for line in lines] == [
        f"<- {SGW}:2123 v2 create session request",
        f"-> {SGW}:2123 v2 create session response",
        f"<- {SGW}:2123 v2 delete session request",
        "-- session ended: device",
        f"-> {SGW}:2123 v2 delete session response",
    ]
    assert "cause 16 request accepted" in lines[1]
    assert f"    imsi: {watched.imsi()}" in shown.out.splitlines()
    packets = await asyncio.to_thread(file.read_bytes)
    assert packets[:4] == b"\xd4\xc3\xb2\xa1"
    assert file.stat().st_mode & 0o777 == 0o600
    for _ in range(100):
        if not watched.stage.node.held["vg-1"].gtp._taps:
            break
        await asyncio.sleep(0.1)
    assert watched.operations._traces == 0


async def test_a_raised_restart_counter_ends_what_peers_hold_and_is_told_from_then_on(
    watched: Watched, airloom: Airloom
) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    await sgsn.attach(imsi=watched.imsi(0), apn=APN)
    await sgw.attach(imsi=watched.imsi(1), apn=APN)
    assert (await airloom("gateway", "raise-restart-counter", "vg-9", "--yes")).code == 1
    told = await airloom("gateway", "raise-restart-counter", "vg-1", "--yes")
    assert told.out == "restart counter 2\n"
    assert watched.stage.open_sessions() == []
    assert (await sgsn.echo(), await sgw.echo()) == (2, 2)
    context = await sgw.attach(imsi=watched.imsi(1), apn=APN)
    assert context.is_active
    await watched.stage.crash()
    await watched.stage.start_node()
    assert watched.stage.node.held["vg-1"].gateway.restart_counter == 2, "it is durable"
    assert len(watched.stage.open_sessions()) == 1


async def test_a_dropped_peer_is_told_unless_silently_and_the_others_stay(
    watched: Watched, airloom: Airloom
) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    kept = await sgw.attach(imsi=watched.imsi(0), apn=APN)
    told = await sgsn.attach(imsi=watched.imsi(1), apn=APN)
    with watched.operations.trace(TraceQuery(imsi=watched.imsi(1))) as messages:
        assert (await airloom("gateway", "drop-peer", SGSN, "--yes")).out == "ended: 1 sessions\n"
        await asyncio.sleep(0.1)
    assert told.ended_by_gateway
    assert messages.get_nowait()["cause"] == "6 reactivation requested", "its device may come back"
    silent = await sgsn.attach(imsi=watched.imsi(1), apn=APN)
    assert (await airloom("gateway", "drop-peer", SGSN, "--silently", "--yes")).out == "ended: 1 sessions\n"
    await asyncio.sleep(0.1)
    assert not silent.ended_by_gateway
    assert kept.is_active
    assert len(watched.stage.open_sessions()) == 1
    dropped = await airloom("gateway", "drop-peer", SGW, "--yes", "--json")
    assert dropped.json == {"ended": 1}
    assert (await airloom("gateway", "raise-restart-counter", "vg-1", "--yes", "--json")).json == {
        "restart_counter": 2
    }


async def test_a_dedicated_bearer_is_made_changed_and_ended_by_an_operator(
    watched: Watched, airloom: Airloom
) -> None:
    sgw = await watched.peer(SGW)
    await sgw.attach(imsi=watched.imsi(), apn=APN)
    (session,) = watched.stage.open_sessions()
    own = ("gateway", "bearer")
    wanted = "remote=10.1.0.0/16,protocol=udp,remote_ports=5060-5070,direction=down"
    added = await airloom(*own, "add", session.session_id, "--qci", "7", "--filter", wanted, "--json")
    told = added.json
    assert (told["qci"], told["priority"], told["may_preempt"], told["preemptable"]) == (7, 15, False, True)
    (shown,) = told["filters"]
    assert shown == {
        "precedence": 0,
        "direction": "down",
        "remote": "10.1.0.0/16",
        "protocol": "udp",
        "remote_ports": "5060-5070",
    }
    ebi = str(told["ebi"])
    second = ("--filter", "protocol=tcp,local_ports=80", "--priority", "3")
    assert (await airloom(*own, "add", session.session_id, "--qci", "8", *second)).out.endswith(
        ": QCI 8, priority 3\n"
    )
    with watched.operations.trace(TraceQuery(imsi=watched.imsi())) as messages:
        changed = await airloom(
            *own,
            "change",
            session.session_id,
            ebi,
            "--qci",
            "9",
            "--priority",
            "2",
            "--may-preempt",
            "--json",
        )
    assert [messages.get_nowait()["message"] for _ in range(2)] == [
        "update bearer request",
        "update bearer response",
    ]
    assert changed.json == told | {"qci": 9, "priority": 2, "may_preempt": True}
    replaced = await airloom(
        *own, "change", session.session_id, ebi, "--filter", "protocol=icmp,precedence=7", "--json"
    )
    assert replaced.json["filters"] == [{"precedence": 7, "direction": "both", "protocol": "icmp"}]
    listed = (await airloom(*own, "list", session.session_id, "--json")).json
    assert listed[0] == replaced.json
    assert [each["filters"][0]["precedence"] for each in listed] == [7, 1]
    (stored,) = await watched.stage.node._world.store.sessions.of_sim(session.sim_id)
    assert [(each.qci, each.arp) for each in stored.dedicated] == [(9, 2 << 2), (8, 0x40 | 3 << 2)]
    assert (await airloom(*own, "remove", session.session_id, ebi)).out == f"bearer {ebi}: removed\n"
    assert len((await airloom(*own, "list", session.session_id, "--json")).json) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"qci": 7}, "filters: is missing"),
        ({"qci": 7, "filters": []}, "filters: must have 1 or more items"),
        ({"qci": 0, "filters": [{"protocol": 6}]}, "qci: must be at least 1"),
        ({"qci": 1, "filters": [{"protocol": 6}]}, "QCI 1 is a GBR QCI; GBR bearers are not supported"),
        ({"qci": 7, "filters": [{}]}, "filters.0: matches all packets; set remote, protocol,"),
        (
            {"qci": 7, "filters": [{"remote": "10.0.0.1/8"}]},
            "filters.0.remote: 10.0.0.1/8 has host bits set; expected",
        ),
        (
            {"qci": 7, "filters": [{"protocol": "ip"}]},
            "filters.0.protocol: 'ip': unknown protocol; write icmp, tcp, udp,",
        ),
        ({"qci": 7, "filters": [{"protocol": 256}]}, "filters.0.protocol: 256: unknown protocol"),
        (
            {"qci": 7, "filters": [{"remote_ports": "9-5"}]},
            "filters.0.remote_ports: '9-5' are not ports; expected 5060 or",
        ),
        ({"qci": 7, "filters": [{"local_ports": "70000"}]}, "filters.0.local_ports: '70000' are not ports"),
        ({"qci": 7, "filters": [{"speed": 1}]}, "filters.0.speed: unknown; known here: direction, remote,"),
        (
            {"qci": 7, "gbr_up_kbps": 64, "filters": [{"protocol": 6}]},
            "gbr_up_kbps: unknown; known here: session_id,",
        ),
        (
            {"qci": 7, "priority": 16, "filters": [{"protocol": 6}]},
            "priority: must be at most 15",
        ),
        (
            {"qci": 7, "filters": [{"protocol": 6, "precedence": 4}] * 2},
            "invalid filters: duplicate precedence",
        ),
        (
            {"qci": 7, "session_id": "x", "filters": [{"protocol": 6}]},
            "session_id: x is not open on this node; ",
        ),
    ],
)
async def test_a_bearer_that_cannot_be_is_refused_by_the_field_and_what_would_be_right(
    watched: Watched, body: dict[str, object], told: str
) -> None:
    sgw = await watched.peer(SGW)
    await sgw.attach(imsi=watched.imsi(), apn=APN)
    (session,) = watched.stage.open_sessions()
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as http,
        http.post(
            f"{watched.url}/control/gateway/add-bearer", json={"session_id": session.session_id} | body
        ) as answer,
    ):
        assert answer.status in (400, 409)
        assert told in (await answer.json())["error"]
    assert watched.stage.open_sessions()[0].dedicated == ()


async def test_a_bearer_over_gtpv1_or_of_another_number_is_refused(
    watched: Watched, airloom: Airloom
) -> None:
    sgsn = await watched.peer(SGSN)
    await sgsn.attach(imsi=watched.imsi(), apn=APN)
    session_id = watched.stage.open_sessions()[0].session_id
    refused = await airloom("gateway", "bearer", "add", session_id, "--qci", "7", "--filter", "protocol=udp")
    assert "gtpv1 has no dedicated bearers" in refused.err
    unknown = await airloom("gateway", "bearer", "remove", session_id, "6")
    assert f"{session_id} has no bearer 6" in unknown.err
    half = await airloom("gateway", "bearer", "add", session_id, "--qci", "7", "--filter", "udp")
    assert (half.code, "udp has no value; expected name=value" in half.err) == (2, True)


async def test_the_channel_refuses_strangers_and_what_it_does_not_know(
    watched: Watched, airloom: Airloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as http:
        for path, told in (
            ("sessions?limit=0", "limit: must be from 1 to 1000"),
            ("sessions?limit=x", "limit: must be from 1 to 1000"),
            ("sessions?limit=00001001", "limit: must be from 1 to 1000"),
            ("sessions?colour=red", "colour: unknown query parameter; known here: imsi, msisdn, address"),
            ("sessions?access=gtpv3", "access: gtpv3 must be one of gtpv1, gtpv2, radius"),
            ("sessions?address=x", "address: x must be an IPv4 or IPv6 address"),
            ("sessions?teid=x", "teid: x must be a number"),
            ("trace?imsi=x", "imsi: must be digits"),
            ("trace", "imsi, partner or refused: at least one must be given"),
            ("trace?refused=yes", "refused: must be true or false"),
            ("trace?colour=red", "colour: unknown query parameter; known here: imsi, partner, refused"),
            ("../usage/quarantined?day=20261131", "day: 20261131 must be a day as yyyymmdd"),
            ("../usage/quarantined?day=2026113", "day: 2026113 must be a day as yyyymmdd"),
        ):
            async with http.get(f"{watched.url}/control/gateway/{path}") as answer:
                assert answer.status == 400
                assert told in json.dumps(await answer.json())
        for path, data, told in (
            ("gateway/drop-peer", '{"peer": "203.0.113.7", "tell_peer": "false"}', "tell_peer: must be true"),
            ("gateway/drop-peer", '{"peer": 1}', "peer: must be a string"),
            ("gateway/drop-peer", "{", "body: must be JSON: Expecting"),
            (
                "end-sessions",
                '{"gateway_id": "vg-1", "sim_id": "1", "reason": "mood"}',
                "reason: mood must be one of",
            ),
        ):
            async with http.post(f"{watched.url}/control/{path}", data=data) as answer:
                assert (answer.status, told in (await answer.json())["error"]) == (400, True), path
        async with http.post(f"{watched.url}/control/gateway/add-bearer", data="[" * 4_000) as answer:
            assert (answer.status, await answer.json()) == (400, {"error": "the body is nested too deep"})
    monkeypatch.setenv("AIRLOOM_CONTROL__SECRET", "another secret of nobody")
    for command in (("status",), ("peers",), ("sessions",), ("trace", "1"), ("drop-peer", "x", "--yes")):
        ended = await airloom("gateway", *command)
        assert (ended.code, ended.out) == (1, "")
        assert "control.secret is wrong" in ended.err


async def test_metrics_tell_partners_procedures_causes_paths_and_what_waits(watched: Watched) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    await sgw.attach(imsi=watched.imsi(0), apn=APN)
    context = await sgsn.attach(imsi=watched.imsi(1), apn=APN)
    with pytest.raises(Refusal):
        await sgsn.attach(imsi=watched.imsi(1), apn="no.such")
    told = await watched.metrics()
    of_v1, of_v2 = 'access="gtpv1",', 'access="gtpv2",'
    create = 'partner="other",procedure="create_pdp_context"'
    assert told[f'airloom_gtp_answers_total{{{of_v1[:-1]},cause="128",{create}}}'] == 1
    assert told[f'airloom_gtp_answers_total{{{of_v1[:-1]},cause="219",{create}}}'] == 1
    assert told[f'airloom_gtp_sessions{{{of_v2}partner="other"}}'] == 1
    assert told[f'airloom_gtp_peers{{{of_v1}partner="other",path="up"}}'] == 1
    assert told[f"airloom_gtp_waiting{{{of_v1[:-1]}}}"] == 0
    assert told['airloom_gtpu_signals_total{signal="error_indication_accepted"}'] == 0
    sgsn.restart_counter = 8
    await sgsn.take_over(context)
    await asyncio.sleep(0.2)
    told = await watched.metrics()
    assert told[f'airloom_gtp_path_events_total{{{of_v1}event="recovery_changed"}}'] == 1


async def test_peers_and_apns_are_taken_over_and_sessions_stay(watched: Watched, airloom: Airloom) -> None:
    sgsn, sgw = await watched.peer(SGSN), await watched.peer(SGW)
    kept = await sgw.attach(imsi=watched.imsi(0), apn=APN)
    assert (await airloom("node", "reload")).out == "changed: nothing\n"
    gateway = watched.wanted.gateway
    partner = {"name": "one", "networks": ["127.0.1.0/24", "127.0.2.0/24"]}
    apn = {"name": APN, "dns": ["9.9.9.9"], "mtu_bytes": 1_300}
    watched.wanted = watched.wanted.model_copy(
        update={
            "gateway": GatewayConfig.model_validate(
                gateway.model_dump()
                | {"peers": [partner], "allowed_peers": [], "apns": [apn, "new.io"]}
                | {"refusals": {"unknown_apn": {"gtpv1": 200}}}
            )
        }
    )
    told = await airloom("node", "reload")
    assert told.out == "changed: gateway.allowed_peers, gateway.apns, gateway.peers, gateway.refusals\n"
    assert (await sgsn.attach(imsi=watched.imsi(1), apn="new.io")).is_active
    with pytest.raises(Refusal) as refused:
        await sgsn.attach(imsi=watched.imsi(2), apn="internet")
    assert refused.value.cause == 200
    assert (await sgsn.attach(imsi=watched.imsi(2), apn=APN)).dns == ("9.9.9.9",)
    moved = await sgsn.take_over(kept)
    assert moved.is_active, "they are of one partner"
    assert {row["partner"] for row in watched.operations.peers()} == {"one"}


async def test_what_cannot_be_taken_over_is_named_and_nothing_is_changed(
    watched: Watched, airloom: Airloom
) -> None:
    gateway = watched.wanted.gateway
    watched.wanted = watched.wanted.model_copy(
        update={"gateway": gateway.model_copy(update={"control_port": 9, "allowed_peers": ()})}
    )
    ended = await airloom("node", "reload")
    assert ended.code == 1
    assert "gateway.control_port: cannot be changed in a running node" in ended.err
    assert watched.stage.node._config.gateway == gateway


async def test_a_gateway_with_more_sessions_than_room_says_what_to_raise(watched: Watched) -> None:
    sgw, stage = await watched.peer(SGW), watched.stage
    for number in range(2):
        await sgw.attach(imsi=watched.imsi(number), apn=APN)
    await stage.crash()
    whole, stage.slots[stage.node_name] = stage.slots[stage.node_name], bytearray(table_bytes(1))
    with pytest.raises(ConfigurationError, match=r"gateway\.sessions_max"):
        await stage.start_node()
    stage.slots[stage.node_name] = whole
    await stage.start_node()
    assert len(stage.open_sessions()) == 2
