"""Where things are kept: store, stream and objects."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from core.config.base import Endpoint, Name, Port, Region, Section, text


class StoreConfig(Section):
    """The store: embedded in ``node.data_dir``, or the cluster of ``cassandra``, nodes that are asked first.

    ``datacenter`` is the local one, whose replicas answer; ``replication_factor`` is what ``airloom store
    migrate`` makes the keyspace with.
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
    """The stream that device messages go into.

    Embedded: an append log of so many ``shards``. With ``kinesis`` named, that Kinesis data stream, in
    ``region`` (else AWS_DEFAULT_REGION), with credentials by AWS's usual chain; ``endpoint``: another server.
    """

    shards: Annotated[int, Field(ge=1, le=64)] = 4
    kinesis: Annotated[
        str, text(r"[a-zA-Z0-9_.-]{0,128}", "at most 128 letters, digits, '_', '.' and '-'")
    ] = ""
    region: Region = ""
    endpoint: Endpoint = ""


class ObjectsConfig(Section):
    """Exports and dead letters: the S3 bucket ``s3``, under ``prefix``, or a ``folder``, by default one in
    ``node.data_dir``.

    Nodes that share a store need a bucket, or a ``folder`` that all of them mount: one is asked for what was
    put on another. ``region``, ``endpoint``: as for the stream.
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
