"""`airloom groups …`, `bills …`, `operator …`, `sandbox …`."""

import asyncio
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from airloom.cli.client import EX_USAGE, Client, CliError
from airloom.cli.commands import (
    GROUP_COLUMNS,
    SIM_COLUMNS,
    FetchAll,
    GroupId,
    Limit,
    Tags,
    listing,
    pairs,
    request,
    run,
    segment,
)
from airloom.cli.files import write_private
from airloom.cli.words import Command

groups = typer.Typer(no_args_is_help=True, help="Groups: SIMs under one configuration.")
bills = typer.Typer(no_args_is_help=True, help="Bills.")
operator = typer.Typer(no_args_is_help=True, help="The account itself.")
_auth_keys = typer.Typer(no_args_is_help=True, help="Keys for programs.")
operator.add_typer(_auth_keys, name="auth-keys")
sandbox = typer.Typer(no_args_is_help=True, help="Test accounts and SIMs, where api.sandbox is on.")
_sandbox_subscribers = typer.Typer(no_args_is_help=True, help="SIMs in stock.")
sandbox.add_typer(_sandbox_subscribers, name="subscribers")


class ExportMode(StrEnum):
    """``--export-mode``."""

    ASYNC = "async"
    SYNC = "sync"


Month = Annotated[
    str,
    typer.Option(
        "--yyyy-mm", help="Year and month, as 202601; the option name may be omitted.", show_default=False
    ),
]
Namespace = Annotated[str, typer.Option(help="As SoracomAir.", show_default=False)]


@groups.command("list", cls=Command)
def list_groups(context: typer.Context, limit: Limit = None, fetch_all: FetchAll = False) -> None:
    """List groups.

    Example: airloom groups list
    """
    listing(context, "/groups", query={"limit": limit}, fetch_all=fetch_all, columns=GROUP_COLUMNS)


@groups.command("get", cls=Command)
def get_group(context: typer.Context, group_id: GroupId) -> None:
    """Show one group.

    Example: airloom groups get --group-id GROUP
    """
    request(context, "GET", f"/groups/{segment(group_id)}")


@groups.command("create", cls=Command)
def create_group(context: typer.Context, tag: Tags = []) -> None:  # noqa: B006 - typer copies defaults
    """Create a group.

    Example: airloom groups create --tag name=pumps
    """
    request(context, "POST", "/groups", body={"tags": pairs(tag)})


@groups.command("delete", cls=Command)
def delete_group(context: typer.Context, group_id: GroupId) -> None:
    """Delete a group.

    Example: airloom groups delete --group-id GROUP
    """
    request(context, "DELETE", f"/groups/{segment(group_id)}")


@groups.command("list-subscribers", cls=Command)
def list_subscribers(
    context: typer.Context, group_id: GroupId, limit: Limit = None, fetch_all: FetchAll = False
) -> None:
    """List the SIMs of a group.

    Example: airloom groups list-subscribers --group-id GROUP
    """
    path = f"/groups/{segment(group_id)}/subscribers"
    listing(context, path, query={"limit": limit}, fetch_all=fetch_all, columns=SIM_COLUMNS)


@groups.command("put-tags", cls=Command)
def put_group_tags(context: typer.Context, group_id: GroupId, tag: Tags) -> None:
    """Set tags of a group.

    Example: airloom groups put-tags --group-id GROUP --tag name=pumps
    """
    body = [{"tagName": name, "tagValue": value} for name, value in pairs(tag).items()]
    request(context, "PUT", f"/groups/{segment(group_id)}/tags", body=body)


@groups.command("put-config", cls=Command)
def put_config(
    context: typer.Context,
    group_id: GroupId,
    namespace: Namespace,
    body: Annotated[
        str, typer.Option(help="A list of key and value, as JSON; - reads it from stdin.", show_default=False)
    ],
) -> None:
    """Set keys of a group's configuration.

    Example: airloom groups put-config --group-id GROUP --namespace SoracomAir
    --body '[{"key": "userdata", "value": "pump 7"}]'
    """
    try:
        values = json.loads(sys.stdin.read() if body == "-" else body)
    except ValueError as error:
        raise CliError(f"--body: not JSON: {error}", EX_USAGE) from error
    request(context, "PUT", f"/groups/{segment(group_id)}/configuration/{segment(namespace)}", body=values)


@bills.command("list", cls=Command)
def list_bills(context: typer.Context) -> None:
    """List the bills of past months.

    Example: airloom bills list
    """
    request(context, "GET", "/bills")


@bills.command("get", cls=Command)
def get_bill(context: typer.Context, yyyy_mm: Month) -> None:
    """Show the bill of a month; for the current month, the amount so far.

    Example: airloom bills get --yyyy-mm 202601
    """
    request(context, "GET", f"/bills/{segment(yyyy_mm)}")


@bills.command("get-latest", cls=Command)
def get_latest_bill(context: typer.Context) -> None:
    """Show the current month's amount so far.

    Example: airloom bills get-latest
    """
    request(context, "GET", "/bills/latest")


@bills.command("get-daily", cls=Command)
def get_daily_bill(context: typer.Context, yyyy_mm: Month) -> None:
    """Show what each day of a month cost.

    Example: airloom bills get-daily --yyyy-mm 202601
    """
    request(context, "GET", f"/bills/{segment(yyyy_mm)}/daily")


@bills.command("export", cls=Command)
def export_bill(
    context: typer.Context,
    yyyy_mm: Month,
    export_mode: Annotated[ExportMode, typer.Option(help="sync gives the link.")] = ExportMode.SYNC,
    out: Annotated[Path | None, typer.Option(help="Write the CSV into this file; - is stdout.")] = None,
) -> None:
    """Export a month's bill as CSV, to a file or as a link that is valid for one hour.

    Example: airloom bills export --yyyy-mm 202601 --out 202601.csv
    """
    path = f"/bills/{segment(yyyy_mm)}/export"
    if out is None:
        return request(context, "POST", path, query={"export_mode": export_mode.value})

    if export_mode is not ExportMode.SYNC:
        raise CliError("--export-mode async returns an id and no file; omit it or --out", EX_USAGE)

    async def task(client: Client) -> bytes | None:
        link = (await client.call("POST", path, query={"export_mode": export_mode.value})).value["url"]
        content = await client.download(link)
        return content if str(out) == "-" else await asyncio.to_thread(_write, out, content)

    return run(context, task)


def _write(path: Path, content: bytes) -> None:
    try:
        write_private(path, content)
    except OSError as error:
        raise CliError(f"--out {path}: {error.strerror or error}", EX_USAGE) from error
    sys.stderr.write(f"wrote {path}, {len(content)} bytes\n")


@operator.command("get")
def get_operator(context: typer.Context) -> None:
    """Show the account.

    Example: airloom operator get
    """
    request(context, "GET", "/operators/{operator_id}")


@_auth_keys.command("list")
def list_auth_keys(context: typer.Context) -> None:
    """List the keys, without their secrets.

    Example: airloom operator auth-keys list
    """
    request(context, "GET", "/operators/{operator_id}/auth_keys")


@_auth_keys.command("generate")
def generate_auth_key(context: typer.Context) -> None:
    """Create a key; its secret is shown only once.

    Example: airloom operator auth-keys generate
    """
    request(context, "POST", "/operators/{operator_id}/auth_keys")


@_auth_keys.command("delete")
def delete_auth_key(
    context: typer.Context,
    auth_key_id: Annotated[str, typer.Option("--auth-key-id", help="The key's id.", show_default=False)],
) -> None:
    """Delete a key.

    Example: airloom operator auth-keys delete --auth-key-id keyId-0123
    """
    request(context, "DELETE", f"/operators/{{operator_id}}/auth_keys/{segment(auth_key_id)}")


@sandbox.command("init")
def init(
    context: typer.Context,
    email: Annotated[str, typer.Option(help="The account's e-mail address.", show_default=False)],
    password: Annotated[
        str, typer.Option(prompt=True, hide_input=True, envvar="AIRLOOM_PASSWORD", help="At least 8.")
    ],
) -> None:
    """Create a test account; prints its id and a token.

    Example: airloom sandbox init --email me@example.com
    """
    body = {"email": email, "password": password, "authKeyId": "keyId-none", "authKey": "secret-none"}

    async def task(client: Client) -> Any:
        return (await client.call("POST", "/sandbox/init", body=body)).value

    run(context, task, signed_in=False)


@_sandbox_subscribers.command("create")
def create_subscriber(
    context: typer.Context,
    subscription: Annotated[str, typer.Option(help="The plan.")] = "plan01s",
) -> None:
    """Create a SIM in stock; register it with serialNumber (its SIM id) and registrationSecret.

    Example: airloom sandbox subscribers create
    """
    request(context, "POST", "/sandbox/subscribers/create", body={"subscription": subscription})
