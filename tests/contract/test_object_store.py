"""What every object store must do, and what is particular to the folder."""

import asyncio
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import ClientPayloadError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.object_store.files import (
    KEY_BYTES_MAX,
    LEFT_S,
    NAME_BYTES_MAX,
    FolderObjectStore,
    MemoryObjectStore,
)
from core.adapters.object_store.s3 import S3ObjectStore
from core.errors import ConfigurationError, LocalProtocolError, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.object_store import ObjectStore
from tests.contract.stores import mount, unmount

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a-key-of-nobody",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-nobody",
    "AWS_DEFAULT_REGION": "us-east-1",
}
LONGEST_KEY = "/".join(["k" * NAME_BYTES_MAX] * 4)
assert len(LONGEST_KEY) == KEY_BYTES_MAX - 1


@contextmanager
def s3_served() -> Iterator[str]:
    """A server that speaks S3's protocol, moto's; buckets are in memory."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        dispatcher = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", 0, dispatcher, threaded=True)
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()
            server.server_close()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_served() as endpoint:
        yield endpoint


def bucket_at(endpoint: str) -> str:
    """A new bucket, made by an HTTP request: this server needs no credentials."""
    name = f"airloom-{secrets.token_hex(8)}"
    with closing(HTTPConnection(endpoint.removeprefix("http://"), timeout=10)) as http:
        http.request("PUT", f"/{name}")
        assert http.getresponse().status == 200
    return name


@pytest.fixture(params=["folder", "memory", "s3"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryObjectStore()
    elif request.param == "folder":
        yield await FolderObjectStore.open(root=tmp_path / "objects")
    else:
        endpoint = request.getfixturevalue("s3_endpoint")
        bucket = await asyncio.to_thread(bucket_at, endpoint)
        store = await S3ObjectStore.open(bucket=bucket, prefix="of-this-test", endpoint=endpoint)
        yield store
        await store.aclose()


@pytest.mark.parametrize("key", ["bill.csv", "OP1/202611/bill 1.csv", "日本/é", LONGEST_KEY])
async def test_what_was_put_is_got(objects: ObjectStore, key: str) -> None:
    assert await objects.get(key) is None
    assert await objects.put(key, b"\x00data")
    assert await objects.get(key) == b"\x00data"


async def test_an_object_never_changes(objects: ObjectStore) -> None:
    assert await objects.put("a/b", b"")
    assert not await objects.put("a/b", b"second")
    assert await objects.get("a/b") == b""


async def test_of_racing_puts_one_wins_whole(objects: ObjectStore) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    results = await asyncio.gather(*(objects.put("k", content) for content in contents))
    assert sorted(results) == [False] * 7 + [True]
    assert await objects.get("k") == contents[results.index(True)]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        "../a",
        "a/../../b",
        "a/./b",
        ".incoming/x",
        "a\0b",
        "\ud800",
        "k" * (NAME_BYTES_MAX + 1),
        LONGEST_KEY + "/k",
    ],
)
async def test_a_key_never_leaves_the_store(objects: ObjectStore, key: str) -> None:
    with pytest.raises(LocalProtocolError):
        await objects.put(key, b"x")
    with pytest.raises(LocalProtocolError):
        await objects.get(key)


@pytest.mark.parametrize("kind", ["folder", "memory"])
async def test_a_name_is_a_file_or_a_folder(kind: str, tmp_path: Path) -> None:
    objects = await FolderObjectStore.open(root=tmp_path) if kind == "folder" else MemoryObjectStore()
    await objects.put("a/b", b"x")
    assert await objects.get("a") is None
    assert await objects.get("a/b/c") is None
    for key in ("a", "a/b/c", "a/b/c/d"):
        with pytest.raises(LocalProtocolError, match="file and a folder"):
            await objects.put(key, b"y")


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


async def test_nothing_is_left_aside(tmp_path: Path) -> None:
    objects = await FolderObjectStore.open(root=tmp_path)
    await objects.put("a/b", b"x")
    await objects.put("a/b", b"y")
    assert files_in(tmp_path) == ["b"]


async def test_what_a_kill_left_aside_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    await FolderObjectStore.open(root=tmp_path)
    left, young = (tmp_path / ".incoming" / name for name in ("left", "young"))
    for path in (left, young):
        path.write_bytes(b"half")
    long_ago = time.time() - LEFT_S - 60
    os.utime(left, (long_ago, long_ago))
    (tmp_path / ".incoming" / "folder").mkdir()
    os.utime(tmp_path / ".incoming" / "folder", (long_ago, long_ago))
    await FolderObjectStore.open(root=tmp_path)
    assert files_in(tmp_path) == ["young"]


async def test_a_folder_whose_insides_somebody_removed_is_made_again(tmp_path: Path) -> None:
    objects = await FolderObjectStore.open(root=tmp_path)
    (tmp_path / ".incoming").rmdir()
    assert await objects.put("a/b", b"x")
    assert await objects.get("a/b") == b"x"


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    objects = await FolderObjectStore.open(root=tmp_path)
    before = os.umask(0)
    try:
        await objects.put("bills/OP0000000001/202611.csv", b"x")
    finally:
        os.umask(before)
    stored = await asyncio.to_thread((tmp_path / "bills" / "OP0000000001" / "202611.csv").stat)
    assert stored.st_mode & 0o777 == 0o600


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="Not a directory"):
        await FolderObjectStore.open(root=tmp_path / "file" / "objects")


@pytest.mark.root
async def test_a_full_disk_stores_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: a small disk is mounted as root only")
    mounted = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path))
    if mounted.returncode:
        pytest.skip(f"not run: tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        objects = await FolderObjectStore.open(root=tmp_path)
        with pytest.raises(Unavailable, match="No space left"):
            await objects.put("big", bytes(2_000_000))
        assert await objects.get("big") is None
        assert await objects.put("big", b"small")
    finally:
        unmount(tmp_path)


async def test_a_bucket_that_is_not_there_is_named(s3_endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match=r"objects.s3: nobodys-bucket: .* name a bucket"):
        await S3ObjectStore.open(bucket="nobodys-bucket", endpoint=s3_endpoint)


async def test_a_bucket_that_does_not_answer_is_unavailable() -> None:
    with s3_served() as endpoint:
        bucket = await asyncio.to_thread(bucket_at, endpoint)
        store = await S3ObjectStore.open(bucket=bucket, endpoint=endpoint)
    with pytest.raises(Unavailable) as refused:
        await store.put("a", b"x")
    assert refused.value.ambiguous
    with pytest.raises(Unavailable):
        await store.get("a")
    await store.aclose()


async def test_a_bucket_that_cuts_off_an_answer_is_unavailable(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = await asyncio.to_thread(bucket_at, s3_endpoint)
    store = await S3ObjectStore.open(bucket=bucket, endpoint=s3_endpoint)

    async def cut_off(**_: object) -> None:
        raise ClientPayloadError("Response payload is not completed")

    monkeypatch.setattr(store, "_sdk", SimpleNamespace(put_object=cut_off, get_object=cut_off))
    with pytest.raises(Unavailable) as refused:
        await store.put("a", b"x")
    assert refused.value.ambiguous
    with pytest.raises(Unavailable):
        await store.get("a")
    monkeypatch.undo()
    await store.aclose()


def test_the_system_clock_and_dice() -> None:
    clock: Clock = SystemClock()
    entropy: Entropy = SystemEntropy()
    assert clock.now().utcoffset() is not None
    assert clock.monotonic() <= clock.monotonic()
    assert len(entropy.random_bytes(10)) == 10
    assert entropy.random_bytes(16) != entropy.random_bytes(16)
