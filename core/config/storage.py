"""Where things are kept: store, stream and objects."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, model_validator

from core.config.base import Name, Port, Section


class StoreConfig(Section):
    """The store: embedded in ``node.data_dir``, or the cluster of ``cassandra``, nodes that are asked first.

    ``datacenter`` is the local one, whose replicas answer; ``replication_factor`` is what ``airloom store
    migrate`` makes the keyspace with.
    """

    cassandra: tuple[Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9.-]{1,253}$")], ...] = ()
    port: Port = 9_042
    keyspace: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")] = "airloom"
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
    kinesis: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{0,128}$")] = ""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,32}$")] = ""
    endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://.+)?$")] = ""


class ObjectsConfig(Section):
    """Exports and dead letters: the S3 bucket ``s3``, under ``prefix``, or a ``folder``, by default one in
    ``node.data_dir``.

    Nodes that share a store need a bucket, or a ``folder`` that all of them mount: one is asked for what was
    put on another. ``region``, ``endpoint``: as for the stream.
    """

    s3: Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")] = ""
    folder: Path | None = None
    prefix: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{0,128}$")] = ""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,32}$")] = ""
    endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://.+)?$")] = ""

    @model_validator(mode="after")
    def _check(self) -> "ObjectsConfig":
        if self.s3 and self.folder is not None:
            raise ValueError("s3, folder: both are set; leave one out")
        return self
