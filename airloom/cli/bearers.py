"""`airloom gateway bearer`: the dedicated bearers of one session, over the node's control channel."""

import asyncio
from typing import Annotated, Any

import typer

from airloom.cli.client import EX_USAGE, CliError
from airloom.cli.node import ContactOption, JsonOption, ask, where_of
from airloom.cli.output import Format, show
from airloom.cli.store import ConfigOption

ANSWER_S = 60.0
"""A peer is asked again until it answers."""

bearer = typer.Typer(
    no_args_is_help=True,
    help="Dedicated bearers of a session (GTPv2): which packets leave the default bearer, and with which QoS."
    " `airloom gateway sessions` has the session's id.\n\n"
    "Example: airloom gateway bearer add 0193… --qci 7 --filter remote=10.1.0.0/16,protocol=udp",
)

SessionArgument = Annotated[str, typer.Argument(help="The session's id.")]
EbiArgument = Annotated[int, typer.Argument(help="The bearer's EPS bearer identity, 5 to 15.")]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="A packet filter, as remote=10.1.0.0/16,protocol=udp,remote_ports=5060-5070; also local_ports,"
        " direction=up|down|both and precedence (0 to 255, evaluated in ascending order). May be repeated.",
    ),
]
PriorityOption = Annotated[int | None, typer.Option(help="ARP priority level, 1 (highest) to 15.")]
PreemptOption = Annotated[
    bool | None, typer.Option("--may-preempt/--may-not-preempt", help="ARP pre-emption capability.")
]
PreemptableOption = Annotated[
    bool | None, typer.Option("--preemptable/--not-preemptable", help="ARP pre-emption vulnerability.")
]
COLUMNS = ("ebi", "qci", "priority", "may_preempt", "preemptable", "filters", "teid_user", "peer")


@bearer.command("list")
def list_(
    session_id: SessionArgument,
    config: ConfigOption = None,
    contact: ContactOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the dedicated bearers of a session.

    Example: airloom gateway bearer list 0193… --json
    """
    where, secret = where_of(config, contact)
    query = {"session_id": session_id}
    reply = asyncio.run(ask("GET", f"{where}/control/gateway/bearers", secret, query=query))
    show(reply["bearers"], Format.JSON if as_json else None, COLUMNS)


@bearer.command()
def add(
    session_id: SessionArgument,
    *,
    qci: Annotated[int, typer.Option(help="Non-GBR QCI, for example 5 to 9.")],
    filters: FilterOption = None,
    priority: PriorityOption = None,
    may_preempt: PreemptOption = None,
    preemptable: PreemptableOption = None,
    config: ConfigOption = None,
    contact: ContactOption = "",
    as_json: JsonOption = False,
) -> None:
    """Create a dedicated bearer; when the command returns, the peer has accepted it and it is in force.

    Example: airloom gateway bearer add 0193… --qci 7 --filter protocol=tcp,remote_ports=443
    """
    body = _body(session_id, qci, priority, may_preempt, preemptable) | {"filters": _filters(filters)}
    _act("add-bearer", body, config, contact, as_json=as_json)


@bearer.command()
def change(
    session_id: SessionArgument,
    ebi: EbiArgument,
    *,
    qci: Annotated[int | None, typer.Option(help="New QCI.")] = None,
    filters: FilterOption = None,
    priority: PriorityOption = None,
    may_preempt: PreemptOption = None,
    preemptable: PreemptableOption = None,
    config: ConfigOption = None,
    contact: ContactOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a dedicated bearer. Options that are not given keep their value; filters are replaced as a
    whole.

    Example: airloom gateway bearer change 0193… 6 --qci 8
    """
    body = _body(session_id, qci, priority, may_preempt, preemptable) | {"ebi": ebi}
    if filters:
        body["filters"] = _filters(filters)
    _act("change-bearer", body, config, contact, as_json=as_json)


@bearer.command()
def remove(
    session_id: SessionArgument,
    ebi: EbiArgument,
    config: ConfigOption = None,
    contact: ContactOption = "",
    as_json: JsonOption = False,
) -> None:
    """Delete a dedicated bearer; its packets use the default bearer.

    Example: airloom gateway bearer remove 0193… 6
    """
    _act("remove-bearer", {"session_id": session_id, "ebi": ebi}, config, contact, as_json=as_json)


def _body(
    session_id: str, qci: int | None, priority: int | None, may_preempt: bool | None, preemptable: bool | None
) -> dict[str, Any]:
    named = {"qci": qci, "priority": priority, "may_preempt": may_preempt, "preemptable": preemptable}
    return {"session_id": session_id} | {name: value for name, value in named.items() if value is not None}


def _filters(filters: list[str] | None) -> list[dict[str, str]]:
    found = []
    for text in filters or ():
        parts = [part.partition("=") for part in text.split(",")]
        if bad := next((name for name, equals, _ in parts if not equals), None):
            raise CliError(
                f"--filter {text}: {bad} has no value; expected name=value, for example protocol=udp",
                EX_USAGE,
            )
        found.append({name.strip(): value.strip() for name, _, value in parts})
    return found


def _act(what: str, body: dict[str, Any], config: Any, contact: str, *, as_json: bool) -> None:
    where, secret = where_of(config, contact)
    url = f"{where}/control/gateway/{what}"
    reply = asyncio.run(ask("POST", url, secret, body=body, within_s=ANSWER_S))
    if as_json:
        show(reply, Format.JSON)
    elif reply:
        typer.echo(f"bearer {reply['ebi']}: QCI {reply['qci']}, priority {reply['priority']}")
    else:
        typer.echo(f"bearer {body['ebi']}: removed")
