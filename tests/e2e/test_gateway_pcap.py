"""The capture of `airloom gateway trace --pcap`, read by tshark."""

import subprocess
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest

from airloom.cli.pcap import PcapFile
from tests.support.gtp import IMSI, create_request
from tests.support.gtp2 import create_session, delete_session

pytestmark = pytest.mark.e2e

FIELDS = (
    "frame.time_epoch",
    "udp.srcport",
    "_ws.col.Protocol",
    "e212.imsi",
    "udp.checksum.status",
    "ip.checksum.status",
    "_ws.malformed",
)
CHECKED = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")


def test_tshark_reads_the_capture_and_finds_nothing_wrong(tmp_path: Path) -> None:
    buffer = BytesIO()
    capture = PcapFile(buffer)
    at = datetime(2026, 11, 25, 21, 0, 0, 123_456, tzinfo=UTC)
    for data in (create_request(9), create_session(9), delete_session(7, 10)):
        capture.write(at, ("127.0.1.1", 40_000), ("127.0.0.1", 2123), data)
    file = tmp_path / "sim.pcap"
    file.write_bytes(buffer.getvalue())
    shown = [option for field in FIELDS for option in ("-e", field)]
    read = subprocess.run(
        ["tshark", "-r", str(file), *CHECKED, "-T", "fields", *shown],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rows = [line.split("\t") for line in read.stdout.splitlines()]
    assert [row[2] for row in rows] == ["GTP", "GTPv2", "GTPv2"]
    assert {row[0][:17] for row in rows} == {f"{at.timestamp():.6f}"}
    assert rows[0][3] == rows[1][3] == IMSI
    assert {(row[1], row[4], row[5], row[6]) for row in rows} == {("40000", "1", "1", "")}
