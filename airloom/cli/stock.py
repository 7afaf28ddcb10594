"""`airloom sims import`: SIMs from a file, over a node's control channel.

Rules: the whole file is checked before the first SIM is brought in, and what is wrong is named by line and
field; the file is read in batches, so its size matters to nothing but time; repeating it changes nothing.
"""

import asyncio
import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import typer

from airloom.cli.client import EX_USAGE, CliError
from airloom.cli.commands import PROFILE_OPTIONS, refuse_ignored_options
from airloom.cli.node import ContactOption, ask, where_of
from airloom.cli.store import ConfigOption
from core.domain.stock import FIELDS, StockRow, problems_of
from core.domain.values import replace

BATCH_ROWS = 1_000
FILE_ROWS_MAX = 1_000_000
LINE_CHARACTERS_MAX = 4_096
PROBLEMS_SHOWN_MAX = 20
PROGRESS_ROWS = 10_000
IMPORT_S = 120.0
"""What one batch may take, on a store that is busy."""

Line = tuple[int, StockRow | str]
"""Its number, and a row or what keeps it from being one."""
OperatorOption = Annotated[
    str, typer.Option("--operator", help="Register them to this customer, for example OP0123456789.")
]


def import_sims(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with a header, or JSON lines.", dir_okay=False)],
    *,
    operator: OperatorOption = "",
    config: ConfigOption = None,
    contact: ContactOption = "",
) -> None:
    """Import SIMs, as operator of the installation: into stock, or with --operator registered to a customer.

    Columns: imsi, iccid, msisdn, registration_secret, subscription, module_type, speed_class, operator_id;
    all but imsi, iccid and the secret may be left out, and the secret where the operator is named. A customer
    registers a SIM from stock by its id (the ICCID) and its secret. A row that is there already changes
    nothing; one that contradicts what is there is refused and named, and the others go on.

    Example: airloom sims import sims.csv --operator OP0123456789
    """
    refuse_ignored_options(context, "sims import", (*PROFILE_OPTIONS, "output"))
    _check(file, operator)
    where, secret = where_of(config, contact)
    counts: Counter[str] = Counter()
    with _opened(file) as text:
        lines = _rows(text, operator)
        while batch := list(islice(lines, BATCH_ROWS)):
            body = {"rows": [msgspec.to_builtins(row) for _, row in batch]}
            url = f"{where}/control/sims/import"
            reply = asyncio.run(ask("POST", url, secret, body=body, within_s=IMPORT_S))
            for refusal in reply.pop("refusals"):
                sys.stderr.write(f"{file}:{batch[refusal['row']][0]}: {refusal['why']}\n")
            counts.update(reply)
            if counts.total() % PROGRESS_ROWS == 0:
                sys.stderr.write(f"{counts.total():,} rows\n")
    typer.echo(", ".join(f"{what} {count:,}" for what, count in counts.items()))
    if counts["refused"]:
        raise CliError(
            f"{file}: {counts['refused']:,} rows were refused (see above); the others were imported"
        )


def _check(file: Path, operator: str) -> None:
    """The whole file, before anything is brought in; raises ``CliError``."""
    seen: dict[str, set[int]] = {"imsi": set(), "iccid": set()}
    problems = count = 0
    with _opened(file) as text:
        for number, row in _rows(text, operator):
            count += 1
            for problem in _problems(row, seen):
                problems += 1
                if problems <= PROBLEMS_SHOWN_MAX:
                    sys.stderr.write(f"{file}:{number}: {problem}\n")
            if count > FILE_ROWS_MAX:
                raise CliError(f"{file}: more than {FILE_ROWS_MAX:,} rows; split it", EX_USAGE)
    if problems:
        plural = "" if problems == 1 else "s"
        raise CliError(f"{file}: {problems:,} problem{plural}; nothing was imported", EX_USAGE)
    if not count:
        raise CliError(f"{file}: no rows", EX_USAGE)


def _problems(row: StockRow | str, seen: dict[str, set[int]]) -> Iterator[str]:
    if isinstance(row, str):
        yield row
        return
    yield from (wrong := list(problems_of(row)))
    if not wrong:
        for name, numbers in seen.items():
            # A leading 1 keeps the zeros that matter.
            if (value := int(f"1{getattr(row, name)}")) in numbers:
                yield f"{name}: repeated; an earlier line has it"
            numbers.add(value)


def _opened(file: Path) -> IO[str]:
    try:
        return file.open(encoding="utf-8-sig", errors="replace", newline="")
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}", EX_USAGE) from error


def _rows(text: IO[str], operator: str) -> Iterator[Line]:
    """Of either format; ``operator`` is whose a row is that does not say it."""
    lines = _bounded(text)
    first = next(lines, "")
    source = _of_json(first, lines) if first.lstrip().startswith("{") else _of_csv(first, lines)
    for number, row in source:
        if operator and isinstance(row, StockRow) and not row.operator_id:
            row = replace(row, operator_id=operator)  # noqa: PLW2901 - the row as it is meant
        yield number, row


def _bounded(text: IO[str]) -> Iterator[str]:
    while line := text.readline(LINE_CHARACTERS_MAX):
        if len(line) == LINE_CHARACTERS_MAX:
            raise CliError(
                f"{text.name}: lines must be shorter than {LINE_CHARACTERS_MAX:,} characters", EX_USAGE
            )
        yield line


def _of_json(first: str, rest: Iterable[str]) -> Iterator[Line]:
    decode = msgspec.json.Decoder(StockRow).decode
    for number, line in enumerate(chain([first], rest), 1):
        if not line.strip():
            continue
        try:
            yield number, decode(line)
        except msgspec.DecodeError as error:
            yield number, str(error)


def _of_csv(first: str, rest: Iterable[str]) -> Iterator[Line]:
    names = [name.strip().lower() for name in next(csv.reader([first]), [])]
    unknown = [name for name in names if name not in FIELDS]
    missing = [name for name in ("imsi", "iccid") if name not in names]
    if unknown or missing or len(set(names)) != len(names):
        wrong = f"unknown column {unknown[0][:40]!r}" if unknown else f"columns {', '.join(names)}"
        yield 1, f"{wrong}; the first line names columns, imsi and iccid among them: {', '.join(FIELDS)}"
        return
    reader = csv.reader(rest)
    for values in reader:
        number = reader.line_num + 1
        if not any(values):
            continue
        if len(values) != len(names):
            yield number, f"{len(values)} values for {len(names)} columns"
            continue
        given: dict[str, Any] = {n: v.strip() for n, v in zip(names, values, strict=True) if v.strip()}
        yield number, StockRow(**{"imsi": "", "iccid": "", **given})
