"""The rooms are one-way and the protocol cores are pure: the contracts of .importlinter, and their reach.

A new module of a front end belongs into the contract ``pure``. If it must do I/O it is a shell: name it in
SHELLS with its reason. Until one of both is done, ``test_every_protocol_module_is_pure_or_a_shell`` is red.
"""

import configparser
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.sources import ROOT

CONTRACTS = ROOT / ".importlinter"
PROTOCOL_PACKAGES = ["gtp", "radius", "mqtt_bridge", "billing"]
PURE_ELSEWHERE = ["core.domain", "core.errors", "core.ports", "core.services.streaming.keyed_queues"]
SHELLS = {
    "billing.closing": "reads the store, closes months in it, audits",
    "billing.service": "reads the store, writes the object store",
    "gtp.configured": "reads a section of the configuration, which pydantic checks",
    "gtp.decisions": "awaits the session service",
    "gtp.service": "the front end's shell: awaits services, opens sockets",
    "gtp.userplane.counter_table": "a counter file",
    "gtp.userplane.tun": "a TUN device",
    "gtp.userplane.udp": "the plane's shell: a socket, a TUN device, a counter file",
    "radius.accounting": "the front end's books: awaits services",
    "radius.authentication": "the front end's decisions: awaits services",
    "radius.configured": "reads a section of the configuration, which pydantic checks",
    "radius.restarts": "the front end's books: awaits services",
    "radius.service": "the front end's shell: awaits services, opens sockets",
    "mqtt_bridge.configured": "reads a section of the configuration, which pydantic checks",
    "mqtt_bridge.connections": "asyncio's connections, by session",
    "mqtt_bridge.edge.http": "aiohttp's connections",
    "mqtt_bridge.edge.mqtt": "asyncio's connections around the machine",
    "mqtt_bridge.edge.tcp": "asyncio's connections",
    "mqtt_bridge.packets": "hands messages to the delivery and waits for their outcome",
    "mqtt_bridge.service": "the front end's shell: wires the entry points",
}
"""Modules and packages of the front ends that are not pure, and why."""


def _contract(name: str, key: str) -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(CONTRACTS)
    return parser[f"importlinter:contract:{name}"][key].split()


def _modules(package: str) -> list[str]:
    """Every module with code, dotted; a package's ``__init__`` counts when it holds more than a docstring."""
    names = []
    for source in sorted((ROOT / package).rglob("*.py")):
        parts = source.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            if len(source.read_text().splitlines()) == 1:
                continue
            parts = parts[:-1]
        names.append(".".join(parts))
    return names


def _is_within(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _reasons(report: str) -> Iterator[str]:
    """Two lines for each contract that is broken: what is not allowed, and the shortest way by which it is
    imported; or what else the contract says. ``report`` is what lint-imports prints of them.
    """
    parts = re.split(r"^(\S.*)\n-+\n", report, flags=re.MULTILINE)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        forbidden = re.split(r"^(\S+ is not allowed to import \S+):\n", text, flags=re.MULTILINE)[1:]
        if not forbidden:
            yield f"{name}: {' '.join(text.partition('(')[0].split())}"
            continue
        ways = [
            (way.split("\n"), what)
            for what, found in zip(forbidden[::2], forbidden[1::2], strict=True)
            for way in re.findall(r"^- +(.*(?:\n {2,}.*)*)", found, flags=re.MULTILINE)
        ]
        way, what = min(ways, key=lambda each: len(each[0]))
        others = f" (and {len(ways) - 1} more, by `lint-imports`)" if len(ways) > 1 else ""
        yield f"{name}: {what}{others}"
        yield f"    {', '.join(step.strip() for step in way)}"


def test_every_contract_is_kept() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        report = done.stdout.partition("Broken contracts\n----------------\n")[2]
        why = "\n".join(_reasons(report)) or done.stdout + done.stderr
        pytest.fail(f"imports that .importlinter forbids:\n{why}", pytrace=False)


def test_a_broken_contract_says_its_reason_in_two_lines() -> None:
    report = """
One-way rooms
-------------

gtp is not allowed to import radius:

- gtp.path -> gtp.restart (l.19)
  gtp.restart -> radius.events (l.186)

-   gtp.wire -> radius.codec (l.7, l.9)


api is not allowed to import gtp:

- api.calls -> gtp.wire (l.8)
  gtp.wire -> gtp.path (l.12)


Every room in core is placed
----------------------------

The following modules are not listed as layers:

- core.new

(Since this contract is marked as 'exhaustive', every child of every container
must be declared as a layer.)
"""
    assert list(_reasons(report)) == [
        "One-way rooms: gtp is not allowed to import radius (and 2 more, by `lint-imports`)",
        "    gtp.wire -> radius.codec (l.7, l.9)",
        "Every room in core is placed: The following modules are not listed as layers: - core.new",
    ]


def test_no_contract_has_an_exception() -> None:
    text = CONTRACTS.read_text()
    assert "ignore_imports" not in text
    assert "exhaustive_ignores" not in text


@pytest.mark.parametrize("protocol", PROTOCOL_PACKAGES)
def test_every_protocol_module_is_pure_or_a_shell(protocol: str) -> None:
    pure = _contract("pure", "source_modules")
    for module in _modules(protocol):
        is_pure, is_shell = _is_within(module, pure), _is_within(module, list(SHELLS))
        assert is_pure or is_shell, (
            f"{module}: put it into `pure` of .importlinter, or into SHELLS with a reason"
        )
        assert not (is_pure and is_shell), f"{module} is named both pure and a shell"


def test_the_pure_rooms_of_core_are_in_the_contract() -> None:
    assert set(PURE_ELSEWHERE) <= set(_contract("pure", "source_modules"))


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_exists(shell: str) -> None:
    path = ROOT.joinpath(*shell.split("."))
    assert path.is_dir() or path.with_suffix(".py").is_file(), f"{shell} is gone: take it out of SHELLS"
