"""`airloom store`: make, bring up to date and look at the tables in Cassandra.

Rule: only an operator changes tables, by this command; a node that finds another version refuses to start.
"""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airloom.cli.client import EX_CONFIG, EX_UNAVAILABLE, CliError
from core.domain.usage import day_of
from core.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from core.config import Config

ConfigOption = Annotated[Path | None, typer.Option("--config", help="airloom.toml; AIRLOOM_* variables win.")]

store = typer.Typer(
    no_args_is_help=True,
    help="Tables in Cassandra (the embedded store creates its own), and the audit log.",
)


@store.command()
def migrate(config: ConfigOption = None) -> None:
    """Create the keyspace and its tables, or migrate them to this version; may be repeated.

    Example: airloom store migrate --config airloom.toml
    """
    from airloom.app.adapters import cassandra_address  # noqa: PLC0415 - a customer's command loads no gateway
    from core.adapters.store.cassandra import migrate as migrate_tables  # noqa: PLC0415 - loads the driver
    from core.adapters.store.tables import SCHEMA_VERSION  # noqa: PLC0415 - a customer's command needs none

    settings = _with_cassandra(config)
    address, factor = cassandra_address(settings), settings.store.replication_factor
    before = _run(migrate_tables(address=address, replication_factor=factor))
    typer.echo(f"keyspace {address.keyspace}: schema {before} before, {SCHEMA_VERSION} now")


@store.command()
def check(config: ConfigOption = None) -> None:
    """Check that the cluster answers and that its tables have this version's schema.

    Example: airloom store check --config airloom.toml
    """
    from airloom.app.adapters import cassandra_address  # noqa: PLC0415 - a customer's command loads no gateway
    from core.adapters.clock import SystemClock  # noqa: PLC0415 - a customer's command needs none
    from core.adapters.store.cassandra import CassandraEngine  # noqa: PLC0415 - loads the driver

    address = cassandra_address(_with_cassandra(config))

    async def look() -> None:
        engine = await CassandraEngine.open(address=address, clock=SystemClock())
        await engine.aclose()

    _run(look())
    typer.echo(f"keyspace {address.keyspace}: schema is up to date")


@store.command()
def audit(
    day: Annotated[str, typer.Argument(help="A UTC day, as 2026-11-30.")], config: ConfigOption = None
) -> None:
    """Print the audit log of a day as JSON lines; with the embedded store, only while no node is running.

    Entries: customers created and closed, SIMs imported, takeovers of gateways and sessions, peer restarts,
    late, lost or quarantined usage, skipped records, and repeated wrong secrets.

    Example: airloom store audit 2026-11-30 --config airloom.toml
    """
    from airloom.app.adapters import open_store  # noqa: PLC0415 - a customer's command loads no gateway
    from core.adapters.clock import SystemClock  # noqa: PLC0415 - a customer's command needs none

    try:
        wanted = day_of(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC))
    except ValueError:
        raise CliError(f"{day}: must be a day, as 2026-11-30") from None
    settings = settings_from(config)

    async def read() -> None:
        opened = await open_store(settings, SystemClock())
        try:
            after = ""
            while True:
                page = await opened.audit.of_day(wanted, after=after)
                for entry in page.items:
                    line = {**asdict(entry), "at": entry.at.isoformat(), "action": entry.action.value}
                    typer.echo(json.dumps(line))
                if not (after := page.next_key):
                    return
        finally:
            await opened.aclose()

    _run(read())


def settings_from(path: Path | None) -> "Config":
    """An operator's configuration; raises ``CliError``."""
    from core.config_file import load  # noqa: PLC0415 - a customer's command reads no airloom.toml

    with faults_as_cli_errors():
        return load(path)


@contextmanager
def faults_as_cli_errors() -> Iterator[None]:
    """What the configuration, the store or the stream raises, as ``CliError``."""
    try:
        yield
    except ConfigurationError as error:
        raise CliError(str(error), EX_CONFIG) from error
    except Unavailable as error:
        raise CliError(str(error), EX_UNAVAILABLE) from error


def _with_cassandra(path: Path | None) -> "Config":
    config = settings_from(path)
    if not config.store.cassandra:
        raise CliError("store.cassandra: not set; the embedded store needs no migration", EX_CONFIG)
    return config


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    with faults_as_cli_errors():
        return asyncio.run(work)
