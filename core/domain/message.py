"""A message from a device and the record it becomes.

Rules: the device is identified by the session of its message, never by its content. The record's partition
key is the IMSI, so that one SIM's messages stay in one shard and in order. Values made per message are named
tuples: immutable like a dataclass, at a quarter of its cost.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

MESSAGE_BYTES_MAX = 65_507
"""The largest payload of one UDP datagram over IPv4 (RFC 768, RFC 791); larger than any entry point
accepts."""


class DeviceMessage(NamedTuple):
    """A device's payload, and the session that it came through."""

    session_id: str
    sim_id: str
    imsi: str
    imei: str
    operator_id: str
    source_protocol: str
    destination: str
    payload: bytes
    received: datetime


class StreamRecord(NamedTuple):
    """A record for the stream: data under a partition key of at most 256 characters (PutRecords)."""

    partition_key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class MessageCount:
    """The number of messages of an IMSI on a UTC day (yyyymmdd), and the last record counted."""

    imsi: str
    day: int
    operator_id: str
    count: int = 0
    record_id: str = ""
    shard_id: str = ""
    sequence_number: str = ""
    version: int = 0
