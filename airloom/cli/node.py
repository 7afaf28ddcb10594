"""`airloom node`: look at the nodes and empty one, over their control channels.

Rule: a node is asked by the configuration that it runs with, without ``control.secret`` by the socket in its
data folder; ``--contact`` names another one.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

import aiohttp
import typer

from airloom.cli.client import EX_CONFIG, EX_UNAVAILABLE, CliError
from airloom.cli.output import show
from airloom.cli.store import ConfigOption, settings_from
from core.adapters.own_socket import SOCKET_FILE, reachable

ASK_S, DRAIN_S, LOOK_S = 5.0, 60.0, 0.1

SOCKET_SCHEME = "unix:"

ContactOption = Annotated[
    str, typer.Option("--contact", help="Another node's control channel, as http://10.0.0.12:8090.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Output JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Skip confirmation.")]

node = typer.Typer(no_args_is_help=True, help="The nodes of this installation, over their control channels.")


@node.command()
def status(config: ConfigOption = None, contact: ContactOption = "") -> None:
    """Show whether a node is ready, its gateway instances, and stalled loops with the reason.

    Example: airloom node status --contact http://10.0.0.12:8090
    """
    where, secret = where_of(config, contact)
    reply = asyncio.run(ask("GET", f"{where}/control/node", secret))
    typer.echo(f"{reply['name']}: {reply['status']}")
    for part, state in reply["parts"].items():
        typer.echo(f"  {part}: {state}")
    for gateway_id, place in sorted(reply["places"].items()):
        sessions = reply["gateways"].get(gateway_id)
        typer.echo(f"  {gateway_id}: {place}" + ("" if sessions is None else f", {sessions} sessions"))
    for loop, why in sorted(reply.get("standing", {}).items()):
        typer.echo(f"  {loop}: stalled: {why}")


@node.command()
def drain(config: ConfigOption = None, contact: ContactOption = "") -> None:
    """Drain a node: it hands over its gateway instances and stops; their sessions continue on other nodes.

    Example: airloom node drain --config airloom.toml
    """
    where, secret = where_of(config, contact)
    if not asyncio.run(_has_drained(where, secret)):
        raise CliError(
            f"{where}: still running after {DRAIN_S:g} s; airloom node status shows which gateways it serves"
        )
    typer.echo("drained: the node has stopped")


@node.command()
def reload(config: ConfigOption = None, contact: ContactOption = "") -> None:
    """Reload a node's configuration, like SIGHUP: partners, allowed peers, APNs and refusals.

    Open sessions stay. If any other key differs, the reload is refused with its name.

    Example: airloom node reload
    """
    where, secret = where_of(config, contact)
    reply = asyncio.run(ask("POST", f"{where}/control/reload", secret))
    typer.echo(f"changed: {', '.join(reply['changed']) or 'nothing'}")


@node.command()
def quarantined(
    day: Annotated[str, typer.Argument(help="A UTC day as yyyymmdd.")],
    config: ConfigOption = None,
    contact: ContactOption = "",
) -> None:
    """List the usage of a day that NASes reported and that is not billed, with the reason, for the whole
    installation.

    It exceeds what the session's line can carry, or belongs to no known session.

    Example: airloom node quarantined 20261130
    """
    where, secret = where_of(config, contact)
    reply = asyncio.run(ask("GET", f"{where}/control/usage/quarantined", secret, query={"day": day}))
    columns = ("client", "why", "imsi", "user_name", "up_bytes", "down_bytes", "nas", "acct_session_id", "at")
    show(reply["quarantined"], None, columns)


async def _has_drained(where: str, secret: str) -> bool:
    await ask("POST", f"{where}/control/drain", secret)
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while True:
                try:
                    await ask("GET", f"{where}/control/node", secret)
                except CliError:
                    return True
                await asyncio.sleep(LOOK_S)
    return False


def confirm(question: str, *, yes: bool) -> None:
    """Raises ``CliError`` unless the answer, or ``--yes``, says so."""
    if not yes and not typer.confirm(question):
        raise CliError("cancelled")


def where_of(path: Path | None, contact: str) -> tuple[str, str]:
    """The control channel to ask, and its secret; raises ``CliError``."""
    config = settings_from(path)
    secret = config.control.secret.get_secret_value()
    if contact and not secret:
        raise CliError("control.secret: required to reach another node", EX_CONFIG)
    return contact or config.control.contact or by_socket(config.node.data_dir), secret


def by_socket(folder: Path) -> str:
    """The control channel of the node that works in this folder."""
    return f"{SOCKET_SCHEME}{quote(os.fspath(folder.absolute()), safe='')}"


@asynccontextmanager
async def channel(url: str, secret: str, **options: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A client session with the secret, for the URL beside it; raises ``CliError`` where no node listens."""
    async with AsyncExitStack() as opened:
        if url.startswith(SOCKET_SCHEME):
            place, _, path = url.removeprefix(SOCKET_SCHEME).partition("/")
            folder, url = Path(unquote(place)), f"http://localhost/{path}"
            if not await asyncio.to_thread((folder / SOCKET_FILE).exists):
                fix = "start it, or give its configuration with --config"
                raise CliError(f"no node is running in {folder}; {fix}", EX_UNAVAILABLE)
            address = await asyncio.to_thread(opened.enter_context, reachable(folder))
            options["connector"] = aiohttp.UnixConnector(path=address)
        headers = {"Authorization": f"Bearer {secret}"}
        yield await opened.enter_async_context(aiohttp.ClientSession(headers=headers, **options)), url


async def ask(
    method: str,
    url: str,
    secret: str,
    *,
    query: Mapping[str, str] | None = None,
    body: object = None,
    within_s: float = ASK_S,
) -> Any:
    """What a node answers; raises ``CliError``."""
    timeout = aiohttp.ClientTimeout(total=within_s)
    try:
        async with (
            channel(url, secret, timeout=timeout) as (http, where),
            http.request(method, where, params=query, json=body) as answer,
        ):
            reply = await answer.json()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise CliError(f"{unquote(url)}: {str(error) or type(error).__name__}", EX_UNAVAILABLE) from error
    if answer.status != 200:
        raise CliError(f"{unquote(url)}: {reply.get('error', answer.status)}")
    return reply
