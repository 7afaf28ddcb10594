"""`airloom node`: look at the nodes and empty one, over their control channels.

Rule: a node is asked by the configuration that it runs with; ``--contact`` names another one.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from core.cli.client import CliError
from core.cli.store import ConfigOption, settings_from

EX_UNAVAILABLE, EX_CONFIG = 69, 78
ASK_S, DRAIN_S, LOOK_S = 5.0, 60.0, 0.1

ContactOption = Annotated[
    str, typer.Option("--contact", help="Another node's control channel, as http://10.0.0.12:8090.")
]

node = typer.Typer(no_args_is_help=True, help="The nodes of this installation, over their control channels.")


@node.command()
def status(config: ConfigOption = None, contact: ContactOption = "") -> None:
    """Whether a node can do what its roles are for, and how it is with each virtual gateway.

    Example: airloom node status --contact http://10.0.0.12:8090
    """
    where, secret = where_of(config, contact)
    told = asyncio.run(ask("GET", f"{where}/control/node", secret))
    typer.echo(f"{told['name']}: {told['status']}")
    for part, state in told["parts"].items():
        typer.echo(f"  {part}: {state}")
    for gateway_id, place in sorted(told["places"].items()):
        sessions = told["gateways"].get(gateway_id)
        typer.echo(f"  {gateway_id}: {place}" + ("" if sessions is None else f", {sessions} sessions"))


@node.command()
def drain(config: ConfigOption = None, contact: ContactOption = "") -> None:
    """Have a node hand its virtual gateways over and end; sessions go on on the other nodes.

    Example: airloom node drain --config airloom.toml
    """
    where, secret = where_of(config, contact)
    if not asyncio.run(_has_drained(where, secret)):
        raise CliError(f"{where}: still there after {DRAIN_S:g} s; airloom node status tells what it holds")
    typer.echo("drained: the node has ended")


@node.command()
def reload(config: ConfigOption = None, contact: ContactOption = "") -> None:
    """Have a node read its configuration again (SIGHUP does the same): the table of peers, and the APNs.

    Sessions that are open stay as they are. What cannot be changed in a running node is named, and then
    nothing is changed.

    Example: airloom node reload
    """
    where, secret = where_of(config, contact)
    told = asyncio.run(ask("POST", f"{where}/control/reload", secret))
    typer.echo(f"changed: {', '.join(told['changed']) or 'nothing'}")


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


def where_of(path: Path | None, contact: str) -> tuple[str, str]:
    """The control channel to ask, and its secret; raises ``CliError``."""
    control = settings_from(path).control
    secret = control.secret.get_secret_value()
    if not secret:
        raise CliError("control.secret: is not set, so the node has no control channel", EX_CONFIG)
    return contact or control.contact, secret


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
    headers, timeout = {"Authorization": f"Bearer {secret}"}, aiohttp.ClientTimeout(total=within_s)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as http,
            http.request(method, url, params=query, json=body) as answer,
        ):
            told = await answer.json()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise CliError(f"{url}: {error or type(error).__name__}", EX_UNAVAILABLE) from error
    if answer.status != 200:
        raise CliError(f"{url}: {told.get('error', answer.status)}")
    return told
