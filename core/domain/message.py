"""A message from a device and the record it becomes.

Rules: the device's identity is the session it came through, never anything it says; the record's
partition key is the IMSI, so that one SIM's messages stay in one shard and in order.
"""

from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

MESSAGE_BYTES_MAX = 65_507
"""The largest payload of one UDP datagram over IPv4 (RFC 768, RFC 791); larger than any entry point
accepts."""


class DeviceMessage(Struct, frozen=True, gc=False):
    """What a device sent, and through which session.

    ``entry_point_url`` is where it was sent to, with MQTT's topic; the record's ``destination.resourceUrl``.
    """

    session_id: str
    sim_id: str
    imsi: str
    imei: str
    operator_id: str
    source_protocol: str
    entry_point_url: str
    payload: bytes
    received: datetime


class StreamRecord(Struct, frozen=True, gc=False):
    """What is put into a stream: data under a partition key of at most 256 characters (PutRecords)."""

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
