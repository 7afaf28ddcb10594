"""What the CLI's commands share: the options of every command, and one way to run a request.

Rule: a command is a function that names an operation and its arguments; signing in, paging, printing and
failing happen here.
"""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from airloom.cli.client import EX_USAGE, Client, CliError, Profile, load_profile, profile_path
from airloom.cli.output import Format, show
from core.domain.values import replace

SIM_COLUMNS = (
    "simId",
    "tags.name",
    "status",
    "speedClass",
    "groupId",
    "sessionStatus.online",
    "sessionStatus.ueIpAddress",
)
GROUP_COLUMNS = ("groupId", "tags", "lastModifiedTime")

SimId = Annotated[
    str,
    typer.Option(
        "--sim-id",
        help="The SIM's id (its primary ICCID); the option name may be omitted.",
        show_default=False,
    ),
]
GroupId = Annotated[
    str,
    typer.Option("--group-id", help="The group's id; the option name may be omitted.", show_default=False),
]
Limit = Annotated[int | None, typer.Option(help="Items per page.", show_default=False)]
FetchAll = Annotated[bool, typer.Option("--fetch-all", help="Fetch all pages.")]
Tags = Annotated[list[str], typer.Option("--tag", help="name=value; may be repeated.", show_default=False)]

PROFILE_OPTIONS = ("endpoint", "auth_key_id", "auth_key", "profile")
"""Options of every command that say which API is asked, and as whom."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the command: which profile, how to print."""

    profile_file: Path
    profile: Profile
    output: Format | None


def settings_of(
    *,
    profile_name: str,
    must_exist: bool,
    endpoint: str,
    auth_key_id: str,
    auth_key: str,
    output: Format | None,
) -> Settings:
    """Options and variables over the saved profile; raises ``CliError``."""
    folder = Path(os.environ.get("AIRLOOM_PROFILE_DIR") or Path.home() / ".airloom")
    path = profile_path(folder, profile_name)
    saved = load_profile(path)
    if must_exist and not path.exists():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "none"
        raise CliError(
            f"profile {profile_name!r}: does not exist (known: {known}); save it with: airloom --profile"
            f" {profile_name} configure",
            EX_USAGE,
        )
    auth_key = secret_of(auth_key)
    if bool(auth_key_id) != bool(auth_key):
        raise CliError("--auth-key-id and --auth-key must be given together", EX_USAGE)
    if auth_key_id:
        saved = Profile(endpoint=saved.endpoint, authKeyId=auth_key_id, authKey=auth_key)
    return Settings(path, replace(saved, endpoint=checked_endpoint(endpoint or saved.endpoint)), output)


def checked_endpoint(endpoint: str) -> str:
    """As it was given, empty for the default one; raises ``CliError`` for what is no http address."""
    if endpoint and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", endpoint):
        raise CliError(f"endpoint {endpoint!r}: expected http://HOST:PORT", EX_USAGE)
    return endpoint


def refuse_ignored_options(context: typer.Context, command: str, ignored: Sequence[str]) -> None:
    """Raises ``CliError`` when one of the options of every command is given to a command that ignores it."""
    root = context.find_root()
    for name in ignored:
        source = root.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise CliError(f"{option}: not an option of airloom {command}; see --help", EX_USAGE)


def secret_of(value: str) -> str:
    """A secret that was given as an option: ``-`` reads it from stdin, where no other process sees it."""
    return sys.stdin.readline().strip() if value == "-" else value


def run(
    context: typer.Context,
    task: Callable[[Client], Awaitable[Any]],
    *,
    columns: Sequence[str] = (),
    signed_in: bool = True,
) -> None:
    """Do one thing as the profile's operator and print what came back."""
    settings: Settings = context.obj

    async def main() -> Any:
        async with Client(settings.profile) as client:
            if signed_in:
                await client.sign_in()
            return await task(client)

    show(asyncio.run(main()), settings.output, columns)


def request(
    context: typer.Context,
    method: str,
    path: str,
    *,
    body: Any = None,
    query: Mapping[str, Any] | None = None,
    columns: Sequence[str] = (),
) -> None:
    """One request; ``{operator_id}`` in the path is the caller's own."""

    async def task(client: Client) -> Any:
        full = path.replace("{operator_id}", client.operator_id)
        reply = await client.call(method, full, body=body, query=query)
        return reply.value or None if isinstance(reply.value, bytes) else reply.value

    run(context, task, columns=columns)


def listing(
    context: typer.Context,
    path: str,
    *,
    query: Mapping[str, Any],
    fetch_all: bool,
    columns: Sequence[str],
) -> None:
    """A list in pages."""

    async def task(client: Client) -> Any:
        items, is_whole = await client.pages(path, query=query, fetch_all=fetch_all)
        if not is_whole:
            sys.stderr.write(f"showing the first {len(items)}; use --fetch-all to list all\n")
        return items

    run(context, task, columns=columns)


def segment(value: str) -> str:
    """A value as one segment of a path."""
    return quote(value, safe="")


def pairs(values: Sequence[str]) -> dict[str, str]:
    """``name=value`` arguments."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise CliError(f"{value!r}: must be name=value", EX_USAGE)
        found[name] = text
    return found
