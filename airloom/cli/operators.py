"""`airloom operators`: the customers of this installation, over a node's control channel.

Rule: an auth key is shown once, on stdout or in a file that is its owner's alone; a password comes by stdin.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from airloom.cli.client import EX_USAGE, CliError
from airloom.cli.files import open_private
from airloom.cli.node import ContactOption, YesOption, ask, confirm, where_of
from airloom.cli.output import show
from airloom.cli.store import ConfigOption, settings_from

CREATE_S = 30.0
"""A password is hashed, and others may wait for the same."""
CLOSE_S = 120.0
"""A step of closing: some hundred SIMs and their sessions."""

operators = typer.Typer(
    no_args_is_help=True,
    help="Customers of this installation: run it on a node's host, or with --contact.",
)
OperatorId = Annotated[str, typer.Argument(help="As OP0123456789.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write the key as a profile that only you can read.")
]


@operators.command()
def create(
    context: typer.Context,
    email: Annotated[str, typer.Option(help="The root user's e-mail address.", show_default=False)],
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a password for sign-in from stdin.")
    ] = False,
    out: OutOption = None,
    config: ConfigOption = None,
    contact: ContactOption = "",
) -> None:
    """Create a customer and its first auth key; the key is shown only once.

    Example: airloom operators create --email ops@example.com --out ops.json
    """
    body = {"email": email}
    if password_stdin:
        body["password"] = sys.stdin.readline().rstrip("\n")
    where, secret = where_of(config, contact)
    _show_key(context, f"{where}/control/operators", secret, body, config=config, out=out)


@operators.command("list")
def list_operators(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    contact: ContactOption = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Items per page.")] = 100,
    after: Annotated[str, typer.Option(help="Continue after this operator id.")] = "",
) -> None:
    """List open customers by id, page by page; the id for --after is printed on stderr.

    A customer that an earlier version created appears after its next sign-in.

    Example: airloom operators list
    """
    where, secret = where_of(config, contact)
    query = {"limit": str(limit), "after": after}
    reply = asyncio.run(ask("GET", f"{where}/control/operators", secret, query=query))
    show(reply["operators"], context.obj.output, ("operator_id", "email", "created", "has_password"))
    if reply["next"]:
        sys.stderr.write(f"more: --after {reply['next']}\n")


@operators.command("add-auth-key")
def add_auth_key(
    context: typer.Context,
    operator_id: OperatorId,
    *,
    out: OutOption = None,
    config: ConfigOption = None,
    contact: ContactOption = "",
) -> None:
    """Create another auth key for a customer that lost its keys; it is shown only once.

    Example: airloom operators add-auth-key OP0123456789 --out ops.json
    """
    where, secret = where_of(config, contact)
    url, body = f"{where}/control/operators/add-auth-key", {"operator_id": operator_id}
    _show_key(context, url, secret, body, config=config, out=out)


@operators.command()
def close(
    operator_id: OperatorId,
    *,
    terminate_sims: Annotated[
        bool, typer.Option("--terminate-sims", help="Terminate its SIMs, which cannot be undone.")
    ] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    contact: ContactOption = "",
) -> None:
    """Close a customer: its credentials end, its SIMs are terminated and disconnected, its bills stay.

    A customer with SIMs that are not terminated is refused without --terminate-sims. Repeat the command if it
    was interrupted.

    Example: airloom operators close OP0123456789 --terminate-sims
    """
    confirm(f"close {operator_id} permanently?", yes=yes)
    where, secret = where_of(config, contact)
    body: dict[str, Any] = {"operator_id": operator_id, "terminate_sims": terminate_sims}
    terminated = 0
    while True:
        url = f"{where}/control/operators/close"
        reply = asyncio.run(ask("POST", url, secret, body=body, within_s=CLOSE_S))
        terminated += reply["terminated"]
        if not reply["next"]:
            break
        body["after"] = reply["next"]
    typer.echo(f"closed: {operator_id}, {terminated} SIMs terminated")


def _show_key(
    context: typer.Context,
    url: str,
    secret: str,
    body: dict[str, str],
    *,
    config: Path | None,
    out: Path | None,
) -> None:
    """Ask for a key and show it; the file for it is made first, so that no key is lost for want of one."""
    file = _made(out) if out is not None else None
    try:
        reply = asyncio.run(ask("POST", url, secret, body=body, within_s=CREATE_S))
    except BaseException:
        if out is not None and file is not None:
            file.close()
            out.unlink()
        raise
    if file is not None:
        api = settings_from(config).api
        profile = {
            "endpoint": f"http://{api.host}:{api.port}",
            "authKeyId": reply["auth_key_id"],
            "authKey": reply["auth_key"],
        }
        with file:
            file.write(f"{json.dumps(profile, indent=2)}\n".encode())
        reply["auth_key"] = f"in {out}"
    show(reply, context.obj.output)


def _made(out: Path) -> BinaryIO:
    try:
        return open_private(out, must_be_new=True)
    except OSError as error:
        raise CliError(f"{out}: {error.strerror}; name another file", EX_USAGE) from error
