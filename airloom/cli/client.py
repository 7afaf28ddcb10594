"""The CLI's way to the API: HTTP, profiles and credentials.

Rules: every command signs in afresh, as soracom-cli does; a profile file is its owner's alone (mode 0600);
what goes wrong is one ``CliError`` with one line and an exit code.
"""

import asyncio
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import typer
from yarl import URL

from airloom.cli.files import write_private

DEFAULT_ENDPOINT = "http://127.0.0.1:8080"
TIMEOUT_S = 60
PAGES_MAX = 100_000
"""Pages that one ``--fetch-all`` reads."""
SHARE = "X-Soracom-Ratelimit-Remaining"
WAIT_S_MAX = 30.0
"""How long a command waits when the API is rate limited (429, Retry-After)."""

EX_FAILED, EX_USAGE, EX_UNAVAILABLE, EX_DENIED, EX_CONFIG = 1, 2, 69, 77, 78
"""Exit codes, beside 0 for success; those from 64 on are those of sysexits.h."""


class CliError(Exception):
    """Why a command failed, in one line; ``exit_code`` is the process's."""

    def __init__(self, message: str, exit_code: int = EX_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Profile:
    """What ``airloom configure`` saves; keys as soracom-cli names them."""

    endpoint: str = ""
    authKeyId: str = ""
    authKey: str = field(default="", repr=False)
    email: str = ""
    password: str = field(default="", repr=False)


def profile_path(folder: Path, name: str) -> Path:
    """``<folder>/<name>.json``; raises ``CliError`` for a name that would leave the folder."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise CliError(f"profile {name!r}: use letters, digits, '-', '_' and '.'", EX_USAGE)
    return folder / f"{name}.json"


def load_profile(path: Path) -> Profile:
    """The saved profile; an empty one when there is no file."""
    again = f"save it again with: airloom --profile {path.stem} configure"
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise CliError(f"{path} can be read by others; run: chmod 600 {path}", EX_USAGE)
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return Profile()
    except (OSError, ValueError) as error:
        raise CliError(f"{path}: {error}; {again}", EX_USAGE) from error
    if not isinstance(values, dict):
        raise CliError(f"{path}: not a JSON object; {again}", EX_USAGE)
    known = {each.name for each in fields(Profile)}
    return Profile(**{key: str(value) for key, value in values.items() if key in known})


def save_profile(path: Path, profile: Profile) -> None:
    """Write it; raises ``CliError``."""
    values = {key: value for key, value in asdict(profile).items() if value}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, f"{json.dumps(values, indent=2)}\n".encode())
    except OSError as error:
        raise CliError(
            f"{path}: {error.strerror}; AIRLOOM_PROFILE_DIR names another folder", EX_USAGE
        ) from error


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered: parsed JSON, or the body as bytes."""

    value: Any
    headers: Mapping[str, str]


class Client:
    """One command's conversation with the API; a context manager."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._endpoint = (profile.endpoint or DEFAULT_ENDPOINT).rstrip("/")
        self._http: aiohttp.ClientSession
        self._headers: dict[str, str] = {}
        self.operator_id = ""

    async def __aenter__(self) -> "Client":
        """Nothing is sent yet."""
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the connection go."""
        await self._http.close()

    async def sign_in(self) -> dict[str, str]:
        """By the profile's auth key, else its e-mail address and password; the API's answer."""
        profile = self._profile
        if profile.authKeyId and profile.authKey:
            body = {"authKeyId": profile.authKeyId, "authKey": profile.authKey}
        elif profile.email and profile.password:
            body = {"email": profile.email, "password": profile.password}
        else:
            raise CliError(
                "no credentials; give --auth-key-id and --auth-key, or save them with: airloom configure",
                EX_USAGE,
            )
        answer: dict[str, str] = (await self.call("POST", "/auth", body=body)).value
        self._headers = {"X-Soracom-API-Key": answer["apiKey"], "X-Soracom-Token": answer["token"]}
        self.operator_id = answer["operatorId"]
        return answer

    async def call(
        self, method: str, path: str, *, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Reply:
        """One request below ``/v1``, again after a 429; raises ``CliError`` for anything but 2xx."""
        parameters = {key: str(value) for key, value in (query or {}).items() if value is not None}
        try:
            while True:
                async with self._http.request(
                    method, self._url(path), json=body, params=parameters, headers=self._headers
                ) as response:
                    content = await response.read()
                value = json.loads(content) if content and "json" in response.content_type else content
                if response.status < 300:
                    return Reply(value, response.headers)
                wait_s = self._wait_s(response)
                if not 0 < wait_s <= WAIT_S_MAX:
                    raise _error_of(response.status, value)
                typer.echo(f"rate limited: retrying in {wait_s:g} s", err=True)
                await asyncio.sleep(wait_s)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise CliError(f"{self._endpoint}: {_why(error)}", EX_UNAVAILABLE) from error

    def _wait_s(self, response: aiohttp.ClientResponse) -> float:
        """After how long this operator has its share of calls again; 0: the API does not say so. Without the
        share's headers a 429 is for wrong credentials or secrets, which are not tried again.
        """
        if response.status != HTTPStatus.TOO_MANY_REQUESTS or SHARE not in response.headers:
            return 0.0
        text = response.headers.get("Retry-After", "")
        return float(text) if text.isascii() and text.isdigit() else 0.0

    async def pages(self, path: str, *, query: Mapping[str, Any], fetch_all: bool) -> tuple[list[Any], bool]:
        """A list, with ``fetch_all`` all of its pages, and whether that is all of it."""
        items: list[Any] = []
        parameters = dict(query)
        for _ in range(PAGES_MAX):
            reply = await self.call("GET", path, query=parameters)
            items += reply.value
            next_key = reply.headers.get("x-soracom-next-key")
            if not next_key:
                return items, True
            if not fetch_all:
                break
            parameters["last_evaluated_key"] = next_key
        return items, False

    async def download(self, url: str) -> bytes:
        """What a link leads to; no credentials go with it. Raises ``CliError``."""
        try:
            async with self._http.get(URL(url, encoded=True)) as response:
                content = await response.read()
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise CliError(f"{url}: {str(error) or type(error).__name__}", EX_UNAVAILABLE) from error
        if response.status != 200:
            raise CliError(f"the export link returned HTTP {response.status}")
        return content

    def _url(self, path: str) -> URL:
        return URL(f"{self._endpoint}/v1{path}", encoded=True)


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        number = error.os_error.errno or 0
        why = os.strerror(number) if number > 0 else error.os_error.strerror or str(error.os_error)
        return f"cannot connect: {why}; check that the API is running, or give its address with --endpoint"
    return str(error) or type(error).__name__


def _error_of(status: int, value: Any) -> CliError:
    code = EX_DENIED if status in (401, 403) else EX_FAILED
    if isinstance(value, dict) and "code" in value:
        return CliError(f"{value['code']}: {value.get('message', '')} (HTTP {status})", code)
    return CliError(f"HTTP {status}; is this an Airloom or SORACOM API?", code)
