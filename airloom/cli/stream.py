"""`airloom stream`: look at what devices sent, in the stream itself.

Rule: it only reads. The embedded stream is read from its files beside the running node, Kinesis by its API.
"""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airloom.cli.output import printable
from airloom.cli.store import ConfigOption, faults_as_cli_errors, settings_from

if TYPE_CHECKING:
    from core.adapters.stream.kinesis import KinesisStream
    from core.adapters.stream.reader import LogReader
    from core.config import Config
    from core.ports.stream import StoredRecord

    Reading = KinesisStream | LogReader
    Show = Callable[[StoredRecord], None]

POLL_S = 0.5
EVENT_FIELDS = ("event", "apn", "ueIpAddress", "cause")

stream = typer.Typer(no_args_is_help=True, help="The stream of device messages and session events.")


class Start(StrEnum):
    """Where reading begins."""

    OLDEST = "oldest"
    LATEST = "latest"


@stream.command()
def tail(
    *,
    config: ConfigOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="The node's data folder, in place of node.data_dir.", show_default=False),
    ] = None,
    imsi: Annotated[str, typer.Option(help="Filter by IMSI.", show_default=False)] = "",
    sim_id: Annotated[str, typer.Option("--sim-id", help="Filter by SIM id.", show_default=False)] = "",
    events: Annotated[bool, typer.Option("--events", help="Include session events.")] = False,
    start: Annotated[Start, typer.Option("--from", help="Start position.")] = Start.OLDEST,
    follow: Annotated[bool, typer.Option(help="Follow new records until Ctrl-C.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole records as JSON lines.")] = False,
) -> None:
    """Print device messages from the stream: UTC time of arrival, IMSI, protocol, payload.

    Binary payloads are shown in base64. Run the command on the node's host.

    With stream.kinesis it runs on any host; the credentials must allow DescribeStreamSummary, ListShards,
    GetShardIterator and GetRecords.

    Example: airloom stream tail --imsi 440100000000001 --from latest | airloom stream tail --no-follow --json
    """
    settings = settings_from(config)
    show = partial(_show, imsi=imsi, sim_id=sim_id, events=events, as_json=as_json)
    try:
        asyncio.run(_tail(settings, data_dir, start, show, follow=follow))
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _tail(
    settings: "Config",
    data_dir: Path | None,
    start: Start,
    show: "Show",
    *,
    follow: bool,
) -> None:
    from core.ports.stream import IteratorType  # noqa: PLC0415 - only this command needs it

    kind = IteratorType.TRIM_HORIZON if start is Start.OLDEST else IteratorType.LATEST
    with faults_as_cli_errors():
        async with AsyncExitStack() as open_parts:
            reading = await _open(settings, data_dir, open_parts)
            places = {
                each.shard_id: await reading.iterator(each.shard_id, kind) for each in await reading.shards()
            }
            while True:
                if not await _show_next(reading, places, show):
                    if not follow:
                        return
                    await asyncio.sleep(POLL_S)
                    for each in await reading.shards():
                        if each.shard_id not in places:  # of a split or a merge
                            oldest = IteratorType.TRIM_HORIZON
                            places[each.shard_id] = await reading.iterator(each.shard_id, oldest)


async def _open(settings: "Config", data_dir: Path | None, open_parts: AsyncExitStack) -> "Reading":
    wanted = settings.stream
    if wanted.kinesis and data_dir is None:
        from core.adapters.stream.kinesis import KinesisStream  # noqa: PLC0415 - else no AWS SDK is loaded

        opened = await KinesisStream.open(name=wanted.kinesis, region=wanted.region, endpoint=wanted.endpoint)
        open_parts.push_async_callback(opened.aclose)
        return opened
    from core.adapters.stream.log import STREAM_FOLDER  # noqa: PLC0415 - only this command needs it
    from core.adapters.stream.reader import LogReader  # noqa: PLC0415 - a customer's command needs none

    return await LogReader.open((data_dir or settings.node.data_dir) / STREAM_FOLDER)


async def _show_next(reading: "Reading", places: dict[str, str], show: "Show") -> bool:
    """A piece of each shard, by time of arrival; whether there was anything."""
    found: list[StoredRecord] = []
    for shard_id, iterator in places.items():
        if not iterator:
            continue  # a closed shard at its end
        result = await reading.read(iterator)
        places[shard_id] = result.next_iterator
        found += result.records
        if result.lost:
            sys.stderr.write(f"{shard_id}: {result.lost} damaged records were skipped\n")
    for record in sorted(found, key=lambda each: each.arrived):
        show(record)
    sys.stdout.flush()
    return bool(found)


def _show(record: "StoredRecord", *, imsi: str, sim_id: str, events: bool, as_json: bool) -> None:
    envelope = _envelope_of(record.data)
    is_event = "sessionEvent" in envelope
    if (is_event and not events) or (imsi and envelope.get("imsi") != imsi):
        return
    if sim_id and envelope.get("simId") != sim_id:
        return
    payload = _payload_of(record.data if not envelope else envelope.get("payloads"))
    if as_json:
        row = {
            "shardId": record.shard_id,
            "sequenceNumber": record.sequence_number,
            "partitionKey": record.partition_key,
            "arrived": record.arrived.isoformat(timespec="milliseconds"),
            "record": envelope or None,
            "payload": payload,
        }
        typer.echo(json.dumps(row, ensure_ascii=False))
        return
    what = envelope.get("sourceProtocol", "foreign record")
    if is_event:
        event = envelope["sessionEvent"] if isinstance(envelope["sessionEvent"], dict) else {}
        what = "session event"
        payload = " ".join(str(event.get(name, "")) for name in EVENT_FIELDS).strip()
    at = record.arrived.isoformat(sep=" ", timespec="milliseconds")[:23]
    typer.echo(printable(f"{at} {envelope.get('imsi', record.partition_key)} {what}: {payload}"))


def _envelope_of(data: bytes) -> Mapping[str, Any]:
    """Airloom's record; empty for another producer's."""
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        if isinstance(value, dict) and "recordId" in value:
            return value
    return {}


def _payload_of(payloads: Any) -> str:
    """Text, or what is no text in base64; JSON as it is."""
    data = payloads
    if isinstance(payloads, str):
        try:
            data = base64.b64decode(payloads, validate=True)
        except ValueError:
            return payloads
    if not isinstance(data, bytes):
        return "" if data is None else json.dumps(data, ensure_ascii=False)
    with suppress(UnicodeDecodeError):
        text = data.decode()
        if all(each.isprintable() or each in "\r\n\t" for each in text):
            return text
    return f"base64:{base64.b64encode(data).decode()}"
