"""`airloom billing`: versions of the tariff, months that are closed, and late usage, from a node.

Rule: a node is asked by the configuration that it runs with; ``--contact`` names another one.
"""

import asyncio
from pathlib import Path
from typing import Any

import typer

from airloom.cli.node import ContactOption, JsonOption, ask, where_of
from airloom.cli.output import Format, show
from airloom.cli.store import ConfigOption

ASK_S = 60.0
"""Late usage is worked out when it is asked for."""

billing = typer.Typer(no_args_is_help=True, help="Tariff versions and late usage; for operators of nodes.")


@billing.command()
def tariffs(config: ConfigOption = None, contact: ContactOption = "", as_json: JsonOption = False) -> None:
    """List tariff versions, with the period in which each applies.

    Example: airloom billing tariffs --config airloom.toml
    """
    show(_ask(config, contact)["tariffs"], Format.JSON if as_json else None)


@billing.command()
def late(config: ConfigOption = None, contact: ContactOption = "", as_json: JsonOption = False) -> None:
    """List usage that arrived after its month was closed, with its cost; it is in no bill.

    Example: airloom billing late --config airloom.toml
    """
    show(_ask(config, contact)["late"], Format.JSON if as_json else None)


def _ask(config: Path | None, contact: str) -> Any:
    where, secret = where_of(config, contact)
    return asyncio.run(ask("GET", f"{where}/control/billing", secret, within_s=ASK_S))
