"""What came of a run, read back from outside: the stream, the statistics, the export.

Rule: a check says what it found; it never repairs and never guesses.
"""

import asyncio
import base64
import csv
import io
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from core.adapters.clock import SystemClock
from core.adapters.stream.log import LogStream
from core.domain.message import StreamRecord
from core.ports.stream import IteratorType, StoredRecord
from loadtest.api_client import ApiClient
from loadtest.folders import temporary_folder


def payloads_by_imsi(records: Sequence[StoredRecord | StreamRecord]) -> dict[str, list[bytes]]:
    """Payloads of messages in stream order, each record id once (a retried put may store one twice)."""
    payloads: dict[str, list[bytes]] = {}
    seen: set[str] = set()
    for record in records:
        envelope = json.loads(record.data)
        if "payloads" in envelope and envelope["recordId"] not in seen:
            seen.add(envelope["recordId"])
            payload = base64.b64decode(envelope["payloads"])
            payloads.setdefault(envelope["imsi"], []).append(payload)
    return payloads


async def read_stream(data_dir: Path) -> list[StoredRecord]:
    """Every record of a served node's stream, read from a copy of its folder: the node holds the original."""
    with temporary_folder("stream") as folder:
        copy = folder / "stream"
        await asyncio.to_thread(shutil.copytree, data_dir / "stream", copy)
        shards = len([path for path in copy.iterdir() if path.is_dir()])
        stream = await LogStream.open(folder=copy, clock=SystemClock(), shards=shards)
        try:
            records: list[StoredRecord] = []
            for shard in await stream.shards():
                iterator = await stream.iterator(shard.shard_id, IteratorType.TRIM_HORIZON)
                while (result := await stream.read(iterator)).records:
                    records += result.records
                    iterator = result.next_iterator
            return records
        finally:
            await stream.aclose()


async def total_of_stats(customer: ApiClient, sim_id: str) -> dict[str, int]:
    """A SIM's octets of this month, up and down, from the statistics API."""
    now = int(time.time())
    answer = await customer.call(
        "GET", f"/stats/air/sims/{sim_id}", period="month", **{"from": now - 40 * 86_400, "to": now + 60}
    )
    totals = {"upload": 0, "download": 0}
    for window in answer:
        for volume in window["dataTrafficStatsMap"].values():
            for direction in totals:
                totals[direction] += volume[f"{direction}ByteSizeTotal"]
    return totals


def quantity_of_csv(content: bytes) -> int:
    """The octets billed, added up from the file as finance would: no code of the bill's is used."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    return sum(int(row["quantity"]) for row in rows)


def is_subsequence(part: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    """Whether ``part`` is ``whole`` with some left out."""
    remaining = iter(whole)
    return all(item in remaining for item in part)
