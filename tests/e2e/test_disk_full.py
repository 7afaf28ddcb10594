"""The disk runs full under a whole node: refused with the protocol's cause, nothing acknowledged is lost, and
everything goes on by itself once there is room again.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from gtp.v1.cause import Cause
from loadtest.api_client import ApiClient
from loadtest.outcome import payloads_by_imsi, read_stream, total_of_stats
from loadtest.peers.gtp import Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.proofs.kill import Talker, attach_talker
from loadtest.serving import Served, free_gateway_address, free_tcp_port

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.program("mount")]

TOLD_WITHIN_S = 20.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "var"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def say(talker: Talker) -> bool:
    """One message; whether it was acknowledged."""
    talker.number += 1
    payload = b"%s %d" % (talker.imsi.encode(), talker.number)
    if await talker.device.send_raw(payload, answer_s=1.0) != b"200":
        return False
    talker.acknowledged.append(payload)
    return True


def fill(folder: Path) -> Path:
    """Until not a page is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            return filler


async def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path) -> None:
    served = Served(
        small_disk,
        gateway_address=free_gateway_address(),
        api_port=free_tcp_port("127.0.0.1", 0),
        environment={
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_STREAM__SHARDS": "1",
            "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
            "AIRLOOM_USAGE__REPORT_INTERVAL_S": "0.5",
        },
    )
    await served.start()
    sgsn = Sgsn(
        network=UdpNetwork(),
        address=free_gateway_address("127.0.1"),
        gateway=served.gateway_address,
        entropy=SystemEntropy(),
        t3_s=3.0,
    )
    try:
        async with ApiClient(served.endpoint) as customer, sgsn.running():
            await customer.sign_up("full@example.com", "Aa1-a-full-disk")
            talkers = [await attach_talker(customer, sgsn) for _ in range(3)]
            sims = [await customer.new_sim() for _ in range(3)]
            waiting = [next(iter(next(iter(sim["profiles"].values()))["subscribers"])) for sim in sims]
            for talker in talkers:
                assert await say(talker)
            filler = fill(small_disk)
            is_acknowledged, refused = True, 0
            for _ in range(200):  # what the files had reserved is used up first
                is_acknowledged = await say(talkers[0])
                if not is_acknowledged:
                    break
            assert not is_acknowledged, "no message is taken that cannot be kept"
            for imsi in waiting:
                with pytest.raises(Refusal) as refusal:
                    for _ in range(60):
                        context = await sgsn.attach(imsi=imsi, apn="soracom.io")
                        await sgsn.detach(context)
                assert refusal.value.cause == Cause.NO_RESOURCES_AVAILABLE
                refused += 1
            assert refused == len(waiting)
            assert await sgsn.echo() == 1
            filler.unlink()
            for talker in talkers:
                assert await until_said(talker)
            for imsi in waiting:
                assert (await sgsn.attach(imsi=imsi, apn="soracom.io")).is_active
            await asyncio.sleep(2)
            await nothing_is_missing(served, customer, talkers)
            await served.kill()
            await served.start()
            await nothing_is_missing(served, customer, talkers)
    finally:
        await served.stop()


async def until_said(talker: Talker) -> bool:
    async with asyncio.timeout(TOLD_WITHIN_S):
        while not await say(talker):
            pass
    return True


async def nothing_is_missing(served: Served, customer: ApiClient, talkers: list[Talker]) -> None:
    """Sessions are still there, messages in the stream, octets metered."""
    stored = payloads_by_imsi(await read_stream(served.data_dir))
    for talker in talkers:
        assert set(talker.acknowledged) <= set(stored[talker.imsi])
        status = (await customer.call("GET", f"/sims/{talker.sim_id}"))["sessionStatus"]
        assert status["online"]
        assert status["ueIpAddress"] == str(talker.context.ue_address)
        metered = await total_of_stats(customer, talker.sim_id)
        assert metered["download"] == talker.seen_bytes > 0
