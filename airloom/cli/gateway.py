"""`airloom gateway`: look at the gateways that a node holds, follow signalling, and act on peers.

Rules: a node is asked by the configuration that it runs with, ``--contact`` names another one; what ends
sessions asks first, unless ``--yes`` says so.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import aiohttp
import typer

from airloom.cli.bearers import bearer
from airloom.cli.client import EX_UNAVAILABLE, EX_USAGE, CliError
from airloom.cli.files import open_private
from airloom.cli.node import ContactOption, JsonOption, YesOption, ask, channel, confirm, where_of
from airloom.cli.output import Format, show
from airloom.cli.pcap import PcapFile
from airloom.cli.store import ConfigOption

SILENT_S = 15.0
"""A traced node that says nothing for so long is gone: it sends an empty line every five seconds."""
END_S = 600.0
"""What ending many sessions may take."""

gateway = typer.Typer(
    no_args_is_help=True,
    help="Packet gateways that a node serves: status, peers, sessions, live signalling traces, and actions"
    " on peers. `airloom node drain` hands them over to another node.\n\n"
    "Examples: airloom gateway status | airloom gateway peers --contact http://10.0.0.12:8090 |"
    " airloom gateway trace 440100000000001 --pcap sim.pcap",
)
gateway.add_typer(bearer, name="bearer")


@gateway.command()
def status(
    config: ConfigOption = None,
    contact: ContactOption = "",
    as_json: JsonOption = False,
    over_s: Annotated[
        float, typer.Option("--over", min=0, max=60, help="Seconds over which rates are measured.")
    ] = 1.0,
) -> None:
    """Show each gateway's sessions by access, waiting requests, answers and drops by reason, and their rates.

    Counters start when the node takes the gateway; the present rate per second stands beside each.

    Example: airloom gateway status --over 10
    """
    where, secret = where_of(config, contact)

    async def look() -> tuple[Any, Any]:
        first = await ask("GET", f"{where}/control/gateway/status", secret)
        await asyncio.sleep(over_s)
        return first, await ask("GET", f"{where}/control/gateway/status", secret)

    first, reply = asyncio.run(look())
    before = {each["id"]: each for each in first["gateways"]}
    for each in reply["gateways"]:
        each["per_s"] = _rates(before.get(each["id"], {}), each, over_s)
    if as_json:
        show(reply, Format.JSON)
        return
    typer.echo(f"{reply['node']}: {'ready' if reply['ready'] else 'draining'}")
    for each in reply["gateways"]:
        _tell_status(each)


def _rates(before: Mapping[str, Any], now: Mapping[str, Any], over_s: float) -> dict[str, float]:
    """Per second, of what moved: ``attaches.gtpv1.accepted``."""
    found = {}
    for table in ("attaches", "dropped"):
        for name, counts in now[table].items():
            for what, count in counts.items():
                moved = count - before.get(table, {}).get(name, {}).get(what, 0)
                if moved and over_s:
                    found[f"{table}.{name}.{what}"] = round(moved / over_s, 1)
    return found


def _tell_status(each: Mapping[str, Any]) -> None:
    user = "" if each["user_address"] == each["address"] else f", GTP-U at {each['user_address']}"
    typer.echo(f"{each['id']} at {each['address']}{user}, restart counter {each['restart_counter']}")
    for label in ("sessions", "addresses", "waiting", "put_off", "paths"):
        reply = ", ".join(f"{name} {count}" for name, count in each[label].items())
        typer.echo(f"  {label.replace('_', ' ')}: {reply or 'none'}")
    for table in ("attaches", "dropped"):
        for name, counts in each[table].items():
            for what, count in counts.items():
                rate = each["per_s"].get(f"{table}.{name}.{what}", 0)
                typer.echo(f"  {table} {name} {what}: {count}" + (f" ({rate:g}/s)" if rate else ""))


@gateway.command()
def peers(config: ConfigOption = None, contact: ContactOption = "", as_json: JsonOption = False) -> None:
    """List peers: partner, path state, restart counter, sessions, and when the last message arrived.

    A path is `up`, `suspect` (the peer does not answer Echo Requests; its sessions are kept for
    gateway.path_keep_s) or `down` (its sessions were ended).

    Example: airloom gateway peers --json
    """
    where, secret = where_of(config, contact)
    reply = asyncio.run(ask("GET", f"{where}/control/gateway/peers", secret))
    show(reply["peers"], Format.JSON if as_json else None)


@gateway.command()
def sessions(
    *,
    config: ConfigOption = None,
    contact: ContactOption = "",
    as_json: JsonOption = False,
    imsi: Annotated[str, typer.Option(help="Filter by IMSI.")] = "",
    msisdn: Annotated[str, typer.Option(help="Filter by MSISDN.")] = "",
    address: Annotated[
        str, typer.Option(help="Filter by the device's IPv4 address, or an IPv6 address of its prefix.")
    ] = "",
    teid: Annotated[str, typer.Option(help="Filter by a TEID, ours or the peer's, as 0x1a2b3c4d.")] = "",
    apn: Annotated[str, typer.Option(help="Filter by APN.")] = "",
    access: Annotated[str, typer.Option(help="Filter by access: gtpv1, gtpv2 or radius.")] = "",
    peer: Annotated[str, typer.Option(help="Filter by a peer's address, or by partner.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Items per page.")] = 50,
    after: Annotated[str, typer.Option(help="Continue after this session id.")] = "",
) -> None:
    """List open sessions, page by page; the id for --after is printed on stderr.

    Example: airloom gateway sessions --address 10.128.0.2
    """
    where, secret = where_of(config, contact)
    asked = {"imsi": imsi, "msisdn": msisdn, "address": address, "teid": teid, "apn": apn, "access": access}
    asked |= {"peer": peer, "after": after, "limit": str(limit)}
    query = {name: value for name, value in asked.items() if value}
    reply = asyncio.run(ask("GET", f"{where}/control/gateway/sessions", secret, query=query))
    if as_json:
        show(reply, Format.JSON)
        return
    show(reply["sessions"], None, ("imsi", "access", "apn", "address", "peer", "rat", "opened", "session_id"))
    if reply["next"]:
        sys.stderr.write(f"more: --after {reply['next']}\n")


@gateway.command()
def trace(
    imsi: Annotated[str, typer.Argument(help="The SIM's IMSI; all SIMs without it.")] = "",
    *,
    partner: Annotated[str, typer.Option(help="Filter by partner, or by the address of one peer.")] = "",
    refused: Annotated[
        bool, typer.Option("--refused", help="Show refused requests only, with their responses.")
    ] = False,
    config: ConfigOption = None,
    contact: ContactOption = "",
    as_json: JsonOption = False,
    pcap: Annotated[
        Path | None, typer.Option(help="Also write the messages to this pcap file, for Wireshark.")
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="Stop after this many messages; 0: never.")] = 0,
) -> None:
    """Follow the GTP-C signalling of a SIM or a partner, both versions, decoded, until Ctrl-C.

    Requests are shown with their main elements, answers with their cause, the end of a session with its
    reason. Give an IMSI, --partner or --refused; several are combined. Passwords of devices (PAP, CHAP) are
    not printed, but the pcap file contains the messages as sent; only you can read it.

    Example: airloom gateway trace --partner some-partner --refused --pcap refused.pcap
    """
    where, secret = where_of(config, contact)
    if imsi and not (imsi.isascii() and imsi.isdigit()):
        raise CliError(f"{imsi}: an IMSI consists of digits", EX_USAGE)
    if not (imsi or partner or refused):
        raise CliError("nothing to trace: give an IMSI, --partner or --refused", EX_USAGE)
    query = {"imsi": imsi, "partner": partner, "refused": "true" if refused else ""}
    query = {name: value for name, value in query.items() if value}

    async def follow(file: PcapFile | None) -> None:
        seen = 0
        async for row in _traced(f"{where}/control/gateway/trace", secret, query):
            data = bytes.fromhex(row.pop("data", ""))
            _print_row(row, as_json=as_json)
            if not data:
                continue  # the end of a session
            if file is not None:
                own, peer = tuple(row["own"]), tuple(row["peer"])
                source, to = (peer, own) if row["direction"] == "in" else (own, peer)
                await asyncio.to_thread(file.write, datetime.fromisoformat(row["at"]), source, to, data)
            seen += 1
            if count and seen >= count:
                return

    with ExitStack() as files:
        file = None
        if pcap is not None:
            try:
                opened = open_private(pcap)
            except OSError as error:
                raise CliError(f"--pcap {pcap}: {error.strerror}", EX_USAGE) from error
            file = PcapFile(files.enter_context(opened))
        try:
            asyncio.run(follow(file))
        except KeyboardInterrupt:
            return


async def _traced(url: str, secret: str, query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENT_S)
    try:
        async with (
            channel(url, secret, timeout=timeout, read_bufsize=2**20) as (http, where),
            http.get(where, params=query) as answer,
        ):
            if answer.status != 200:
                raise CliError(f"{unquote(url)}: {(await answer.json()).get('error', answer.status)}")
            sys.stderr.write(f"tracing {', '.join(map(' '.join, query.items()))}; Ctrl-C ends it\n")
            async for line in answer.content:
                if line.strip():
                    yield json.loads(line)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = str(error) or type(error).__name__
        raise CliError(f"{unquote(url)}: {why}", EX_UNAVAILABLE) from error
    raise CliError(f"{unquote(url)}: the node has stopped", EX_UNAVAILABLE)


def _print_row(row: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row, ensure_ascii=False))
        return
    if row["left_out_before"]:
        typer.echo(
            f"  {row['left_out_before']} messages were dropped: they arrived faster than they were read"
        )
    if "peer" in row:
        arrow = "<-" if row["direction"] == "in" else "->"
        address, port = row["peer"]
        teid = "" if row["teid"] is None else f" teid 0x{row['teid']:08x}"
        cause = f" cause {row['cause']}" if row["cause"] else ""
        said = (
            f"{arrow} {address}:{port} v{row['version']} {row['message']} seq {row['sequence']}{teid}{cause}"
        )
    else:
        said = f"-- {row['message']}: {row['cause']}"
    typer.echo(f"{row['at'][11:23]} {said}")
    for name, value in row["elements"].items():
        typer.echo(f"    {name}: {value}")


@gateway.command("raise-restart-counter")
def raise_restart_counter(
    gateway_id: Annotated[str, typer.Argument(help="The gateway instance, for example vg-1.")],
    config: ConfigOption = None,
    contact: ContactOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Raise the restart counter: every peer, and this gateway, ends all of the gateway's sessions.

    The counter does not change on a restart or takeover; raise it when peers hold sessions that no longer
    exist.

    Example: airloom gateway raise-restart-counter vg-1
    """
    where, secret = where_of(config, contact)
    confirm(f"end every GTP session of {gateway_id}?", yes=yes)
    body = {"gateway_id": gateway_id}
    url = f"{where}/control/gateway/restart-counter"
    reply = asyncio.run(ask("POST", url, secret, body=body, within_s=END_S))
    _print_reply(reply, f"restart counter {reply['restart_counter']}", as_json=as_json)


@gateway.command("drop-peer")
def drop_peer(
    peer: Annotated[str, typer.Argument(help="A peer's address, or a partner's name.")],
    *,
    config: ConfigOption = None,
    contact: ContactOption = "",
    silently: Annotated[
        bool, typer.Option("--silently", help="Send no delete requests, for a peer that no longer exists.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """End the sessions of a peer or a partner, and send the peer delete requests.

    Example: airloom gateway drop-peer 203.0.113.7 --silently
    """
    where, secret = where_of(config, contact)
    confirm(f"end every session of {peer}?", yes=yes)
    body = {"peer": peer, "tell_peer": not silently}
    reply = asyncio.run(ask("POST", f"{where}/control/gateway/drop-peer", secret, body=body, within_s=END_S))
    _print_reply(reply, f"ended: {reply['ended']} sessions", as_json=as_json)


def _print_reply(reply: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        show(reply, Format.JSON)
    else:
        typer.echo(text)
