"""Style as tests: what a reviewer would otherwise have to say again and again.

The limits are ratchets: they may go down, never up.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import ROOT, nodes, tree

PACKAGES = ["airloom", "core", "api", "gtp", "radius", "mqtt_bridge", "billing", "loadtest"]
SOURCES = sorted(source for package in PACKAGES for source in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERYTHING = [*SOURCES, *TESTS, ROOT / "run"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LOCKS = sorted(ROOT.glob("requirements*.lock"))

FUNCTION_LINES_MAX = 70
FILE_LINES_ASK, FILE_LINES_MAX = 400, 700
FILES_ON_PATHS_MAX = (12, 8, 7, 10)
BANNED_WORDS = {"manager", "helper", "helpers", "util", "utils"}
CLOCK_AND_DICE = (
    "time.",
    "random.",
    "secrets.",
    "os.urandom",
    "os.getrandom",
    "uuid.uuid1",
    "uuid.uuid4",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
)
ENTRY_POINTS = {"loadtest.demo", "loadtest.proofs.prove"}
"""Started by name (./run, pyproject.toml). Modules with a ``__main__`` part are found by it."""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _found(pattern: str, paths: list[Path]) -> list[str]:
    """``path:line: text`` of every line that matches."""
    return [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]


# -- size and words -------------------------------------------------------------------------------------


def test_no_function_is_long() -> None:
    long = [
        f"{_name(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in EVERYTHING
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_no_file_is_long() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in EVERYTHING}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


LONG_FILES = {
    "airloom/app/gateway_runtime.py": "one gateway's wiring: each part is passed to several others",
    "core/adapters/store/cassandra.py": "one engine: its statements are prepared, sent and judged together",
    "core/adapters/store/sqlite.py": "one engine, with its two threads and their queue",
    "core/adapters/stream/log.py": "one stream, with its writing thread",
    "core/adapters/stream/segments.py": "one shard: what is written, and each kind of damage in it",
    "core/ports/store.py": "one Protocol per aggregate, read beside each other",
    "gtp/userplane/counter_table.py": "one file format, with its readers of the formats before",
    "gtp/userplane/forwarding.py": "the path of a packet: a call saved per packet counts more than a file",
    "loadtest/demo.py": "the demo from its options to its proof",
    "loadtest/load.py": "the load tool from its options to its thresholds",
    "loadtest/proofs/scale.py": "one simulation with its faults and its table",
    "loadtest/simulation/world.py": "what a simulated node and its surroundings share",
    "mqtt_bridge/mqtt/codec.py": "the wire format of both versions, packet by packet",
    "mqtt_bridge/mqtt/connection.py": "one machine: the actions of its table",
}
"""Sources of more than ``FILE_LINES_ASK`` lines, each with the reason why it is one file."""


def test_a_file_with_many_lines_has_a_reason() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name for name, lines in lengths.items() if lines > FILE_LINES_ASK} == set(LONG_FILES)


def test_unit_tests_mirror_the_tree() -> None:
    """Each folder of unit tests is a folder of the tree; tests of a package's modules are in its folder."""
    unit = ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder).is_dir()] == []
    assert [path.name for path in unit.glob("test_*.py")] == ["test_run.py"]


def _defined_names(path: Path) -> Iterator[str]:
    yield path.stem
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_names_say_what_a_thing_is() -> None:
    vague = {f"{_name(p)}: {n}" for p in EVERYTHING for n in _defined_names(p) if _words(n) & BANNED_WORDS}
    assert vague == set()


def test_every_module_begins_with_its_rules() -> None:
    assert [_name(path) for path in SOURCES if not ast.get_docstring(tree(path))] == []


# -- exceptions need a reason ---------------------------------------------------------------------------


def test_every_suppression_names_its_code_and_its_reason() -> None:
    bare = (
        r"#\s*type:\s*ignore(?!\[[\w\-, ]+\]\s*#\s*\w+)|#\s*noqa(?!:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*\s+-\s+\w+)"
    )
    assert [line for line in _found(bare, EVERYTHING) if not line.startswith("tests/test_tidy.py")] == []


def test_every_open_end_has_a_reason() -> None:
    open_end = r"\b(TODO|FIXME|XXX)\b(?!: \w+ \w+ \w+)"
    assert [line for line in _found(open_end, EVERYTHING) if not line.startswith("tests/test_tidy.py")] == []


def _skips(path: Path) -> Iterator[tuple[int, bool]]:
    """Line, and whether a reason stands there, of every skip in a test file."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg for keyword in node.keywords}
            if called == "pytest.skip":
                yield node.lineno, bool(node.args) or "reason" in keywords
            elif called in {
                "pytest.mark.skip",
                "pytest.mark.skipif",
                "pytest.importorskip",
                "pytest.mark.xfail",
            }:
                yield node.lineno, "reason" in keywords
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bare = {"pytest.mark.skip", "pytest.mark.xfail"}
            if any(ast.unparse(decorator) in bare for decorator in node.decorator_list):
                yield node.lineno, False


def test_no_skip_without_a_reason() -> None:
    assert [f"{_name(path)}:{line}" for path in TESTS for line, reason in _skips(path) if not reason] == []


# -- what may call what ---------------------------------------------------------------------------------


def _aliases(path: Path) -> dict[str, str]:
    """What each imported name stands for, dotted."""
    names: dict[str, str] = {}
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _clock_and_dice(path: Path) -> Iterator[str]:
    aliases = _aliases(path)
    for node in nodes(path):
        if isinstance(node, ast.Name | ast.Attribute):
            head, dot, rest = ast.unparse(node).partition(".")
            dotted = aliases.get(head, "") + dot + rest
            if dotted.startswith(CLOCK_AND_DICE):
                yield f"{_name(path)}:{node.lineno} {dotted}"


def test_clock_and_dice_are_touched_by_adapters_only() -> None:
    inside = [path for path in SOURCES if not _name(path).startswith(("core/adapters/", "loadtest/"))]
    assert [use for path in inside for use in _clock_and_dice(path)] == []


def _imported(path: Path) -> set[str]:
    """Every module that a file imports; ``from a import b`` may mean the module ``a.b``."""
    modules: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def test_values_are_changed_by_one_function() -> None:
    """``dataclasses.replace`` fails for a struct, which mypy does not see (``core.domain.values``)."""
    others = [path for path in EVERYTHING if _name(path) != "core/domain/values.py"]
    assert [_name(path) for path in others if "dataclasses.replace" in _imported(path)] == []


def _is_started(path: Path) -> bool:
    return path.stem == "__main__" or '__name__ == "__main__"' in path.read_text()


def _dead_modules() -> set[str]:
    imported = {module for path in EVERYTHING for module in _imported(path)}
    alive = imported | ENTRY_POINTS
    bench = {_module(path) for path in SOURCES if "\ndef main(argv: " in path.read_text()}
    files = [path for path in SOURCES if path.stem != "__init__" and not _is_started(path)]
    return {_module(path) for path in files} - alive - bench


def test_no_module_is_dead() -> None:
    assert _dead_modules() == set()


def _private_imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if re.match(r"_(?!_)", alias.name)]
            yield from (f"{_name(path)}:{node.lineno} {name}" for name in names)


def test_no_private_name_is_imported() -> None:
    assert [found for path in SOURCES for found in _private_imports(path)] == []


def _members_of_others(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}):
                yield f"{_name(path)}:{node.lineno} {ast.unparse(node)}"


def test_protocols_share_by_composition() -> None:
    """A datagram protocol has no abstract class and no access to another object's protected members."""
    sources = [path for path in SOURCES if _name(path).startswith(("gtp/", "radius/"))]
    assert [found for path in sources for found in _members_of_others(path)] == []
    assert [_name(path) for path in sources if "abc" in _imported(path)] == []


# -- documents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_path_in_a_document_exists(document: Path) -> None:
    paths = re.findall(r"`((?:[\w.\-]+/)+[\w.\-]*)`", document.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_files_on_each_path_are_as_many_as_is_said() -> None:
    """A ratchet, in this order: attach, uplink to bill, publish, suspend."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text().split("### Files on the path")[1].split("\n## ")[0]
    rows = re.findall(r"^\|[^|]+\| (\d+) \|([^|]+)\|$", text, re.MULTILINE)
    counts = [len(set(re.findall(r"`([^`]+)`", files))) for _, files in rows]
    assert [int(said) for said, _ in rows] == counts
    assert all(count <= most for count, most in zip(counts, FILES_ON_PATHS_MAX, strict=True)), counts


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text())
    assert [name for path, name in named if f"def {name}(" not in (ROOT / path).read_text()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_in_a_document_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_changelog_is_kept() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert lines[0] == "# Changelog"
    assert headings[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    sections = {line for line in lines if line.startswith("### ")}
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    assert sections <= {f"### {kind}" for kind in kinds}


def test_decisions_are_numbered_and_say_their_status() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text()
        assert text.startswith(f"# {int(record.name[:4])}. "), record.name
        for part in ("Status: ", "## Context", "## Decision", "## Consequences"):
            assert part in text, f"{record.name} lacks {part}"


# -- what is installed ----------------------------------------------------------------------------------


def _pins(lock: Path) -> set[str]:
    return set(re.findall(r"^([\w.\-]+==[^ ;\\]+)", lock.read_text(), re.MULTILINE))


def test_locks_and_package_files_name_no_host() -> None:
    files = [*LOCKS, ROOT / "pyproject.toml", *ROOT.rglob("[!.]*/package-lock.json")]
    host = r"://|--(extra-)?index|--find-links|--trusted-host|^\s*-[if]\s|\"resolved\""
    assert _found(host, files) == []


@pytest.mark.parametrize("lock", LOCKS, ids=_name)
def test_every_pin_has_a_hash(lock: Path) -> None:
    entries = re.split(r"^(?=[\w.\-]+==)", lock.read_text(), flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_locks_hold_what_the_project_asks_for() -> None:
    runtime, dev = _pins(ROOT / "requirements.lock"), _pins(ROOT / "requirements-dev.lock")
    assert runtime <= dev, "run `./run lock`"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[>=<\[]", requirement)[0].lower() for requirement in asked}
    assert names <= {pin.partition("==")[0] for pin in dev}, "run `./run lock`"


# -- words ----------------------------------------------------------------------------------------------

DIALECT = re.compile(
    r"\b(?:whoever|whomever|told|lent|lends?|lending|heed(?:s|ed)?|rests|tenures?|chores?|doors?|somebody|anybody"
    r"|without a word|spoken of|speak of|for ever|anew|stands? still|passed over|nobody|everybody|tells"
    r"|in vain|for nothing|amid|befalls?|befell|put aside|take-overs?|settles?|thereof|whence)\b",
    re.IGNORECASE,
)
"""Words that this project used where the field has its own (docs/GLOSSARY.md)."""
DIALECT_NAMES = {
    *("door", "doors", "tenure", "tenures", "seat", "holdings", "chore", "chores", "lend", "lent", "lends"),
    *(
        "lending",
        "promise",
        "promised",
        "redeem",
        "heed",
        "heeded",
        "reprove",
        "wish",
        "wishes",
        "lane",
        "lanes",
    ),
    *("whoever", "mover"),
}
DIALECT_IN_DOCUMENTS_MAX = 3
"""Of all documents but decisions and the notes on upgrades, which keep the words of their day."""
ADDRESSED_TO_READERS = [document for document in DOCUMENTS if not {"adr", "upgrading.md"} & {*document.parts}]


def _docstrings(path: Path) -> set[int]:
    """Which constants are docstrings, or strings that stand by themselves."""
    return {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}


def _messages(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of three words and more that a person may be shown: literals, and docstrings of commands."""
    docstrings = _docstrings(path) if "cli" not in path.parts else set[int]()
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if node.value.count(" ") > 1:
                yield node.lineno, node.value


def test_messages_are_in_plain_words() -> None:
    dialect = [
        f"{_name(path)}:{line}: {found[0]}"
        for path in SOURCES
        for line, text in _messages(path)
        if (found := DIALECT.search(text))
    ]
    assert dialect == []


def test_names_are_the_fields_words() -> None:
    dialect = {f"{_name(p)}: {n}" for p in SOURCES for n in _defined_names(p) if _words(n) & DIALECT_NAMES}
    assert dialect == set()


def test_documents_are_in_plain_words() -> None:
    found = [word for path in ADDRESSED_TO_READERS for word in DIALECT.findall(path.read_text())]
    assert len(found) <= DIALECT_IN_DOCUMENTS_MAX, "say it in the field's words; the limit only goes down"
