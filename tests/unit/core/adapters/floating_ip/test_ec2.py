"""Moving an address between two EC2 instances, against a small server of EC2's query protocol and metadata.

Amazon itself was never asked; the server knows what AssignPrivateIpAddresses and the instance metadata say in
their references.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from xml.sax.saxutils import escape

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from core.adapters.floating_ip import ec2
from core.adapters.floating_ip.ec2 import Ec2FloatingIp
from core.errors import ConfigurationError, Unavailable

ADDRESS = IPv4Address("10.0.1.101")
STATIONS = {bytes.fromhex("0a0000000001"): "eni-1", bytes.fromhex("0a0000000002"): "eni-2"}
SUBNET = IPv4Network("10.0.1.0/24")
FIRST, SECOND = STATIONS


@dataclass
class Region:
    """One subnet with two interfaces; it records requests, and fails on demand."""

    addresses: dict[str, list[str]] = field(
        default_factory=lambda: {"eni-1": ["10.0.1.11"], "eni-2": ["10.0.1.12"]}
    )
    asked: list[str] = field(default_factory=list)
    fault: tuple[int, str] | None = None
    takes_s: float = 0.0
    is_metadata_off: bool = False

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_put("/latest/api/token", self.token)
        application.router.add_get("/latest/meta-data/{what:.+}", self.metadata)
        application.router.add_post("/", self.assign)
        return application

    async def token(self, request: web.Request) -> web.Response:
        assert int(request.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        return web.Response(status=403 if self.is_metadata_off else 200, text="the token")

    async def metadata(self, request: web.Request) -> web.Response:
        if request.headers.get("X-aws-ec2-metadata-token") != "the token":
            return web.Response(status=401)
        what = request.match_info["what"]
        if what == "placement/region":
            return web.Response(text="eu-central-1")
        *_, station, name = what.split("/")
        eni = STATIONS.get(bytes.fromhex(station.replace(":", "")))
        if eni is None:
            return web.Response(status=404)
        told = {
            "interface-id": eni,
            "subnet-ipv4-cidr-block": str(SUBNET),
            "local-ipv4s": "\n".join(self.addresses[eni]),
        }
        return web.Response(text=told[name])

    async def assign(self, request: web.Request) -> web.Response:
        form = await request.post()
        eni, address = str(form["NetworkInterfaceId"]), str(form["PrivateIpAddress.1"])
        assert (form["Action"], form["AllowReassignment"]) == ("AssignPrivateIpAddresses", "true")
        self.asked.append(f"{address} to {eni}")
        await asyncio.sleep(self.takes_s)
        if self.fault is not None:
            return _error(*self.fault)
        if IPv4Address(address) not in SUBNET:
            return _error(400, "InvalidParameterValue")
        for each in self.addresses.values():
            if address in each:
                each.remove(address)
        self.addresses[eni].append(address)
        body = (
            '<AssignPrivateIpAddressesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<requestId>1</requestId><networkInterfaceId>{eni}</networkInterfaceId><return>true</return>"
            "</AssignPrivateIpAddressesResponse>"
        )
        return web.Response(text=body, content_type="text/xml")


def _error(status: int, code: str) -> web.Response:
    body = (
        f"<Response><Errors><Error><Code>{escape(code)}</Code><Message>so it is</Message></Error></Errors>"
        "<RequestID>1</RequestID></Response>"
    )
    return web.Response(status=status, text=body, content_type="text/xml")


@dataclass
class Interface:
    """Implements ``FloatingIp``: what this host has, without a kernel."""

    has: dict[IPv4Address, float] = field(default_factory=dict)

    def may_attach(self, address: IPv4Address) -> bool:
        return True

    async def attach(self, address: IPv4Address, *, lasting_s: float) -> None:
        self.has[address] = lasting_s

    async def detach(self, address: IPv4Address) -> None:
        self.has.pop(address, None)

    async def aclose(self) -> None:
        self.has.clear()


@dataclass
class Stage:
    region: Region
    url: str
    interfaces: dict[bytes, Interface] = field(default_factory=dict)

    @asynccontextmanager
    async def instance(self, station: bytes) -> AsyncIterator[Ec2FloatingIp]:
        """The mover of the instance whose interface that is."""
        interface = self.interfaces[station] = Interface()
        floating_ip = await Ec2FloatingIp.open(
            interface=interface, station=station, metadata=self.url, endpoint=self.url
        )
        try:
            yield floating_ip
        finally:
            await floating_ip.aclose()


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key-of-nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-nobody")
    region = Region()
    async with TestServer(region.application()) as server:
        yield Stage(region, str(server.make_url("")).rstrip("/"))


async def test_the_address_goes_to_whoever_takes_over(stage: Stage) -> None:
    async with stage.instance(FIRST) as first, stage.instance(SECOND) as second:
        await first.attach(ADDRESS, lasting_s=12)
        assert stage.region.addresses["eni-1"] == ["10.0.1.11", "10.0.1.101"]
        await second.attach(ADDRESS, lasting_s=12)
        assert stage.region.addresses == {"eni-1": ["10.0.1.11"], "eni-2": ["10.0.1.12", "10.0.1.101"]}
        assert 11 < stage.interfaces[SECOND].has[ADDRESS] <= 12, "the call's time is not added"


async def test_it_is_asked_for_once_and_taken_off_here_alone(stage: Stage) -> None:
    async with stage.instance(FIRST) as first:
        for _ in range(3):
            await first.attach(ADDRESS, lasting_s=12)
        await first.detach(ADDRESS)
        await first.detach(ADDRESS)
    assert stage.region.asked == ["10.0.1.101 to eni-1"]
    assert "10.0.1.101" in stage.region.addresses["eni-1"], "otherwise EC2 may give it to another instance"
    assert stage.interfaces[FIRST].has == {}


async def test_a_call_of_the_last_holder_that_comes_late_is_made_good(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2, "LOOK_S", 0.0)
    async with stage.instance(FIRST) as first, stage.instance(SECOND) as second:
        await second.attach(ADDRESS, lasting_s=12)
        await first.attach(ADDRESS, lasting_s=12)  # its lease term has ended, but EC2 gets its call only now
        await second.attach(ADDRESS, lasting_s=12)
        assert "10.0.1.101" in stage.region.addresses["eni-2"]
        stage.region.is_metadata_off = True
        asked = len(stage.region.asked)
        await second.attach(ADDRESS, lasting_s=7)
        assert (len(stage.region.asked), stage.interfaces[SECOND].has[ADDRESS] > 6) == (asked, True)


FAULTS: dict[tuple[int, str], tuple[type[Exception], str]] = {
    (403, "UnauthorizedOperation"): (ConfigurationError, "allow ec2:AssignPrivateIpAddresses"),
    (401, "AuthFailure"): (ConfigurationError, "correct the instance's role"),
    (400, "PrivateIpAddressLimitExceeded"): (ConfigurationError, "use a larger one, or more nodes"),
    (400, "InvalidNetworkInterfaceID.NotFound"): (ConfigurationError, "an instance that has it"),
    (503, "RequestLimitExceeded"): (Unavailable, "RequestLimitExceeded"),
    (500, "InternalError"): (Unavailable, "InternalError"),
}


async def test_what_ec2_refuses_names_the_fix_or_is_tried_again(stage: Stage) -> None:
    async with stage.instance(FIRST) as first:
        for fault, (kind, told) in FAULTS.items():
            stage.region.fault = fault
            with pytest.raises(kind, match=told):
                await first.attach(ADDRESS, lasting_s=12)
            assert stage.interfaces[FIRST].has == {}, "an address that is not here is not added"
        stage.region.fault = None
        await first.attach(ADDRESS, lasting_s=12)
        assert ADDRESS in stage.interfaces[FIRST].has


async def test_another_subnets_address_is_not_sought_and_refused(stage: Stage) -> None:
    async with stage.instance(FIRST) as first:
        assert first.may_attach(ADDRESS)
        assert not first.may_attach(IPv4Address("10.0.2.101"))
        with pytest.raises(ConfigurationError, match=r"10.0.2.101 to eni-1: .* in the interface's subnet"):
            await first.attach(IPv4Address("10.0.2.101"), lasting_s=12)


async def test_an_ec2_that_does_not_answer_in_time_adds_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.instance(FIRST) as first:
        stage.region.takes_s = 0.1
        with pytest.raises(Unavailable, match="longer than the lease term"):
            await first.attach(ADDRESS, lasting_s=0.05)
        await first.detach(ADDRESS)
        monkeypatch.setattr(ec2, "CALL_S", 0.05)
        with pytest.raises(Unavailable, match="EC2 does not answer") as caught:
            await first.attach(ADDRESS, lasting_s=12)
        assert caught.value.ambiguous
        assert stage.interfaces[FIRST].has == {}


async def test_where_there_is_no_ec2_it_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="it needs an EC2 instance"):
        async with stage.instance(bytes(6)):
            pass
    stage.region.is_metadata_off = True
    with pytest.raises(ConfigurationError, match="metadata service on"):
        async with stage.instance(FIRST):
            pass
    stage.region.is_metadata_off = False
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(ConfigurationError, match="give the instance a role"):
        async with stage.instance(FIRST):
            pass
