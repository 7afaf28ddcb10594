"""`airloom sims …` and `airloom stats …`."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from airloom.cli.client import EX_USAGE, CliError
from airloom.cli.commands import (
    SIM_COLUMNS,
    FetchAll,
    Limit,
    SimId,
    Tags,
    listing,
    pairs,
    request,
    secret_of,
    segment,
)
from airloom.cli.words import Command

sims = typer.Typer(no_args_is_help=True, help="SIMs: register, switch, group, tag, watch.")
stats = typer.Typer(no_args_is_help=True, help="Usage statistics.")
_air = typer.Typer(no_args_is_help=True, help="Cellular traffic.")
_air_sims = typer.Typer(no_args_is_help=True, help="By SIM.")
stats.add_typer(_air, name="air")
_air.add_typer(_air_sims, name="sims")

_EVENT_COLUMNS = ("time", "event", "imsi", "ueIpAddress", "imei", "sessionId")


class StatsPeriod(StrEnum):
    """``--period``."""

    MINUTES = "minutes"
    DAY = "day"
    MONTH = "month"


@sims.command("list", cls=Command)
def list_sims(context: typer.Context, limit: Limit = None, fetch_all: FetchAll = False) -> None:
    """List SIMs, by id.

    Example: airloom sims list --fetch-all --output jsonl
    """
    listing(context, "/sims", query={"limit": limit}, fetch_all=fetch_all, columns=SIM_COLUMNS)


@sims.command(cls=Command)
def get(context: typer.Context, sim_id: SimId) -> None:
    """Show one SIM, with its session.

    Example: airloom sims get 8981100000000000001
    """
    request(context, "GET", f"/sims/{segment(sim_id)}")


@sims.command(cls=Command)
def register(
    context: typer.Context,
    sim_id: SimId,
    registration_secret: Annotated[
        str,
        typer.Option(
            help="The secret on the card (PUK or passcode); - reads it from stdin.", show_default=False
        ),
    ],
    group_id: Annotated[str, typer.Option(help="Add it to this group.")] = "",
    tag: Tags = [],  # noqa: B006 - typer copies defaults
) -> None:
    """Register a SIM with the secret that came with it.

    Example: airloom sims register --sim-id 8981100000000000001 --registration-secret 12345678 --tag name=pump
    """
    secret = secret_of(registration_secret)
    body = {"registrationSecret": secret, "groupId": group_id or None, "tags": pairs(tag)}
    request(context, "POST", f"/sims/{segment(sim_id)}/register", body=body)


def _add_verb(verb: str, path: str, text: str) -> None:
    def command(context: typer.Context, sim_id: SimId) -> None:
        request(context, "POST", f"/sims/{segment(sim_id)}/{path}")

    command.__doc__ = f"{text}\n\nExample: airloom sims {verb} --sim-id 8981100000000000001"
    sims.command(verb, cls=Command)(command)


_VERBS = (
    ("activate", "activate", "Allow a SIM to connect."),
    ("deactivate", "deactivate", "Disconnect a SIM and reject it temporarily; its device keeps trying."),
    ("set-to-standby", "set_to_standby", "Disconnect a SIM; the next connection makes it active."),
    ("suspend", "suspend", "Disconnect a SIM and reject it permanently."),
    ("terminate", "terminate", "Terminate a SIM permanently; requires enable-termination first."),
    ("enable-termination", "enable_termination", "Allow termination of the SIM."),
    ("disable-termination", "disable_termination", "Protect the SIM from termination."),
    ("unset-imei-lock", "unset_imei_lock", "Remove a SIM's IMEI lock."),
    ("unset-group", "unset_group", "Remove a SIM from its group."),
    ("delete-session", "delete_session", "Disconnect a SIM; its device may reconnect at once."),
)
for _verb in _VERBS:
    _add_verb(*_verb)


@sims.command(cls=Command)
def update_speed_class(
    context: typer.Context,
    sim_id: SimId,
    speed_class: Annotated[str, typer.Option(help="As s1.fast.", show_default=False)],
) -> None:
    """Change a SIM's speed class; takes effect at once.

    Example: airloom sims update-speed-class --sim-id 8981100000000000001 --speed-class s1.fast
    """
    request(context, "POST", f"/sims/{segment(sim_id)}/update_speed_class", body={"speedClass": speed_class})


@sims.command(cls=Command)
def set_imei_lock(
    context: typer.Context,
    sim_id: SimId,
    imei: Annotated[str, typer.Option(help="The device's IMEI; by default that of the present device.")] = "",
) -> None:
    """Lock a SIM to a device; a session in another device ends at once.

    Example: airloom sims set-imei-lock --sim-id 8981100000000000001 --imei 490154203237518
    """
    request(context, "POST", f"/sims/{segment(sim_id)}/set_imei_lock", body={"imei": imei} if imei else {})


@sims.command(cls=Command)
def set_group(
    context: typer.Context,
    sim_id: SimId,
    group_id: Annotated[str, typer.Option(help="The group's id.", show_default=False)],
) -> None:
    """Add a SIM to a group.

    Example: airloom sims set-group --sim-id 8981100000000000001 --group-id GROUP
    """
    request(context, "POST", f"/sims/{segment(sim_id)}/set_group", body={"groupId": group_id})


@sims.command(cls=Command)
def put_tags(context: typer.Context, sim_id: SimId, tag: Tags) -> None:
    """Set tags of a SIM.

    Example: airloom sims put-tags --sim-id 8981100000000000001 --tag name=pump --tag site=north
    """
    body = [{"tagName": name, "tagValue": value} for name, value in pairs(tag).items()]
    request(context, "PUT", f"/sims/{segment(sim_id)}/tags", body=body)


@sims.command(cls=Command)
def delete_tag(
    context: typer.Context,
    sim_id: SimId,
    tag_name: Annotated[str, typer.Option(help="The tag's name.", show_default=False)],
) -> None:
    """Remove a tag of a SIM.

    Example: airloom sims delete-tag --sim-id 8981100000000000001 --tag-name site
    """
    request(context, "DELETE", f"/sims/{segment(sim_id)}/tags/{segment(tag_name)}")


@sims.command(cls=Command)
def session_events(
    context: typer.Context,
    sim_id: SimId,
    *,
    since: Annotated[int | None, typer.Option("--from", help="Milliseconds since 1970.")] = None,
    until: Annotated[int | None, typer.Option("--to", help="Milliseconds since 1970.")] = None,
    limit: Limit = None,
    fetch_all: FetchAll = False,
) -> None:
    """List a SIM's session events, newest first.

    Example: airloom sims session-events --sim-id 8981100000000000001 --limit 10
    """
    query = {"from": since, "to": until, "limit": limit}
    path = f"/sims/{segment(sim_id)}/events/sessions"
    listing(context, path, query=query, fetch_all=fetch_all, columns=_EVENT_COLUMNS)


@_air_sims.command("get", cls=Command)
def get_air_stats(
    context: typer.Context,
    sim_id: SimId,
    period: Annotated[StatsPeriod, typer.Option(help="Aggregation period.")] = StatsPeriod.DAY,
    since: Annotated[str, typer.Option("--from", help="A day (2026-01-31) or seconds since 1970.")] = "0",
    until: Annotated[
        str, typer.Option("--to", help="A day, or seconds since 1970; default: now.")
    ] = "253370764799",
) -> None:
    """Show a SIM's usage.

    Example: airloom stats air sims get --sim-id 8981100000000000001 --period day --from 2026-01-01
    """
    query = {"period": period.value, "from": _seconds("--from", since), "to": _seconds("--to", until)}
    request(context, "GET", f"/stats/air/sims/{segment(sim_id)}", query=query)


def _seconds(option: str, text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise CliError(f"{option} {text!r}: a day as 2026-01-31, or seconds since 1970", EX_USAGE) from None
