"""The `airloom` command: its options, its groups of commands, and how it fails.

Rule: what goes wrong is one line on stderr and an exit code: 1 the API said no, 2 wrong use, 69 it could not
be reached, 77 not authenticated or not permitted, 78 a configuration that cannot be used.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from airloom.cli.account import bills, groups, operator, sandbox
from airloom.cli.billing import billing
from airloom.cli.client import DEFAULT_ENDPOINT, CliError, Profile, save_profile
from airloom.cli.commands import (
    PROFILE_OPTIONS,
    Settings,
    checked_endpoint,
    refuse_ignored_options,
    run,
    settings_of,
)
from airloom.cli.gateway import gateway
from airloom.cli.node import node
from airloom.cli.operators import operators
from airloom.cli.output import Format
from airloom.cli.sims import sims, stats
from airloom.cli.stock import import_sims
from airloom.cli.store import store
from airloom.cli.stream import stream
from airloom.cli.words import Root, unwrap_help
from core.domain.values import replace
from core.version import VERSION

OPERATORS_COMMANDS = ("serve", "store", "stream", "billing", "node", "gateway")
"""They go by airloom.toml, not by a profile."""

app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Airloom's command line. Customers use sims, groups, stats, bills and operator, over the REST API;"
    " operators of nodes use serve, operators, sims import, node, gateway, billing, store and stream.\n\n"
    "First steps: airloom operators create --email me@example.com; airloom configure; airloom sims list.\n\n"
    "Examples: airloom sims list | airloom sims suspend --sim-id 8981100000000000001 |"
    " airloom sims list --fetch-all --output jsonl",
)
sims.command("import")(import_sims)
for _name, _group in {
    "sims": sims,
    "groups": groups,
    "stats": stats,
    "bills": bills,
    "operator": operator,
    "sandbox": sandbox,
    "store": store,
    "stream": stream,
    "billing": billing,
    "operators": operators,
    "node": node,
    "gateway": gateway,
}.items():
    app.add_typer(_group, name=_name)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"airloom {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    endpoint: Annotated[
        str, typer.Option(envvar="AIRLOOM_ENDPOINT", help="The API, as http://127.0.0.1:8080.")
    ] = "",
    auth_key_id: Annotated[str, typer.Option(envvar="AIRLOOM_AUTH_KEY_ID", help="As keyId-….")] = "",
    auth_key: Annotated[
        str,
        typer.Option(
            envvar="AIRLOOM_AUTH_KEY",
            help="As secret-…. Visible in the host's process list: prefer the variable, a profile, or - to"
            " read it from stdin.",
        ),
    ] = "",
    profile: Annotated[str, typer.Option(envvar="AIRLOOM_PROFILE", help="A saved profile.")] = "default",
    output: Annotated[
        Format | None, typer.Option(help="Default: table on a terminal, json elsewhere.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command that calls the API; before or after the command."""
    command = context.invoked_subcommand or ""
    if command in OPERATORS_COMMANDS:
        refuse_ignored_options(context, command, (*PROFILE_OPTIONS, "output"))
    else:
        if command == "operators":
            refuse_ignored_options(context, command, PROFILE_OPTIONS)
        context.obj = settings_of(
            profile_name=profile,
            must_exist=profile != "default" and command != "configure",
            endpoint=endpoint,
            auth_key_id=auth_key_id,
            auth_key=auth_key,
            output=output,
        )
    if context.invoked_subcommand == "configure" and not auth_key_id:
        saved: Settings = context.obj
        context.obj = replace(saved, profile=Profile(endpoint=saved.profile.endpoint))


@app.command()
def configure(
    context: typer.Context,
    email: Annotated[str, typer.Option(help="Save this and a password instead of an auth key.")] = "",
    password: Annotated[str, typer.Option(envvar="AIRLOOM_PASSWORD", help="Prompts if not given.")] = "",
) -> None:
    """Save endpoint and credentials as a profile that only you can read; prompts for missing values.

    Example: airloom --endpoint http://127.0.0.1:8080 --auth-key-id keyId-1 --auth-key secret-1 configure
    """
    settings: Settings = context.obj
    given = settings.profile
    is_asked = not given.authKeyId and not (email and password)
    endpoint = given.endpoint
    if is_asked and not (context.parent and context.parent.params.get("endpoint")):
        endpoint = checked_endpoint(typer.prompt("endpoint", default=endpoint or DEFAULT_ENDPOINT))
    if email:
        password = password or typer.prompt("password", hide_input=True)
        wanted = Profile(endpoint=endpoint, email=email, password=password)
    else:
        key_id = given.authKeyId or typer.prompt("auth key id")
        secret = given.authKey or typer.prompt("auth key", hide_input=True)
        wanted = Profile(endpoint=endpoint, authKeyId=key_id, authKey=secret)
    save_profile(settings.profile_file, wanted)
    sys.stderr.write(f"saved {settings.profile_file}, for {endpoint or DEFAULT_ENDPOINT}\n")


@app.command()
def auth(context: typer.Context) -> None:
    """Sign in and print API key and token.

    Example: airloom auth
    """
    run(context, lambda client: client.sign_in(), signed_in=False)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="airloom.toml; AIRLOOM_* variables win.")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="gateway, aaa, edge, api, meter or all; may be repeated. Wins over node.roles."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report readiness as one line of JSON.")] = False,
) -> None:
    """Run Airloom itself, by default with every role in one process.

    Example: airloom serve --config airloom.toml | airloom serve --role gateway --role edge
    """
    from airloom.cli.serve import serve as serve_node  # noqa: PLC0415 - a customer's command loads no gateway

    raise typer.Exit(serve_node(config, roles=role or (), as_json=as_json))


unwrap_help(app)


def main() -> None:
    """The console script."""
    os.umask(0o077)  # whatever a command or a node makes holds secrets, or what customers did
    try:
        app(prog_name="airloom")
    except CliError as error:
        line = " ".join(str(error).split())
        sys.stderr.write(f"airloom: {line}\n")
        sys.exit(error.exit_code)
