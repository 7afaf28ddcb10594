"""Where things are kept: store, stream and objects."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from core.config.base import Endpoint, Name, Port, Region, Section, text


class StoreConfig(Section):
    """The store: embedded in ``node.data_dir``, or a Cassandra cluster.

    ``cassandra`` are nodes to connect to first; ``datacenter`` is the local one, whose replicas answer.
    ``airloom store migrate`` creates the keyspace with ``replication_factor``.
    """

    cassandra: tuple[
        Annotated[str, text(r"[a-zA-Z0-9.-]{1,253}", "a host's name or IPv4 address, without a port")], ...
    ] = ()
    port: Port = 9_042
    keyspace: Annotated[
        str, text(r"[a-z][a-z0-9_]{0,47}", "1 to 48 lower-case letters, digits and '_', a letter first")
    ] = "airloom"
    datacenter: Name = "datacenter1"
    user_name: str = ""
    password: SecretStr = SecretStr("")
    replication_factor: Annotated[int, Field(ge=1, le=9)] = 3


class StreamConfig(Section):
    """The stream of device messages.

    Embedded, it is an append log of ``shards``. With ``kinesis`` it is the Kinesis data stream of that name
    in ``region`` (else AWS_DEFAULT_REGION), with credentials from AWS's usual chain; ``endpoint`` names
    another server than AWS's.
    """

    shards: Annotated[int, Field(ge=1, le=64)] = 4
    kinesis: Annotated[
        str, text(r"[a-zA-Z0-9_.-]{0,128}", "at most 128 letters, digits, '_', '.' and '-'")
    ] = ""
    region: Region = ""
    endpoint: Endpoint = ""


class ObjectsConfig(Section):
    """Where exports and dead letters are kept: the S3 bucket ``s3``, under ``prefix``, or ``folder``, by
    default a folder in ``node.data_dir``.

    Nodes that share a store need a bucket, or a ``folder`` that all of them mount, because one node is asked
    for objects that another one wrote. ``region``, ``endpoint``: as for the stream.
    """

    s3: Annotated[
        str,
        text(
            r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?",
            "a bucket: 3 to 63 lower-case letters, digits, '.' and '-', or empty",
        ),
    ] = ""
    folder: Path | None = None
    prefix: Annotated[str, text(r"[a-zA-Z0-9_-]{0,128}", "at most 128 letters, digits, '_' and '-'")] = ""
    region: Region = ""
    endpoint: Endpoint = ""

    @model_validator(mode="after")
    def _check(self) -> "ObjectsConfig":
        if self.s3 and self.folder is not None:
            raise ValueError("s3, folder: both are set; leave one out")
        return self
