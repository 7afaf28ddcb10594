"""Static addresses before a whole node in virtual time: the SIM's own, or none."""

import asyncio
from ipaddress import IPv4Address, IPv6Network

import pytest

import loadtest.simulation.plan
from core.config import Config, GatewayConfig
from core.domain.gateway import AddressHolder
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession, PeerTunnel
from core.domain.session import Access, CloseReason, PdnType, Session
from core.domain.values import replace
from core.errors import Refused
from core.ports.store import SETTLE_S
from loadtest.peers.nas import AccessDenied
from loadtest.simulation.plan import Plan
from loadtest.simulation.world import APN
from tests.node.test_radius_door import Stage, played

STATIC, OTHER = IPv4Address("10.127.0.9"), IPv4Address("10.127.0.10")


async def bind(stage: Stage, address: IPv4Address | None, number: int = 0) -> str:
    sims = stage.node._world.store.sims
    if number == len(stage.sims):
        sim = replace(stage.sims[0].sim, sim_id="8981100000000000999", version=0)
        sim = replace(sim, subscribers=(replace(sim.subscribers[0], imsi="440100000000999"),))
        await sims.put(replace(sim, static_address=address))
        return sim.imsi
    stored = await sims.get(stage.sims[number].sim.sim_id)
    assert stored is not None
    return (await sims.put(replace(stored, static_address=address))).imsi


async def attach(
    stage: Stage,
    imsi: str,
    *,
    wants: IPv4Address | None = None,
    nsapi: int = 5,
    pdn_type: PdnType = PdnType.IPV4,
) -> Session:
    peer = PeerTunnel(1, 2, "127.0.1.1", "127.0.1.1", nsapi)
    request = OpenSession(Access.GTPV1, imsi, APN, peer=peer, requested_address=wants, pdn_type=pdn_type)
    return await stage.node.held["vg-1"].sessions.open(request)


async def refused(stage: Stage, imsi: str, *, wants: IPv4Address | None = None) -> AttachRefusal:
    with pytest.raises(Refused) as caught:
        await attach(stage, imsi, wants=wants)
    assert isinstance(caught.value.reason, AttachRefusal)
    return caught.value.reason


@played
async def test_a_sim_has_its_own_address_or_none(stage: Stage) -> None:
    assert await refused(stage, stage.imsi, wants=STATIC) is AttachRefusal.NOT_SUPPORTED
    await bind(stage, STATIC)
    assert await refused(stage, stage.imsi, wants=OTHER) is AttachRefusal.NOT_SUPPORTED
    assert (await attach(stage, stage.imsi, wants=STATIC)).ue_address == STATIC
    assert stage.node.held["vg-1"].gateway.leases["addresses"] == 0
    again = await attach(stage, stage.imsi, nsapi=6)
    assert again.ue_address == STATIC
    assert stage.open_sessions() == [again], "one address, one session"
    await bind(stage, IPv4Address("192.0.2.1"))
    assert await refused(stage, stage.imsi) is AttachRefusal.STATIC_ADDRESS_UNAVAILABLE
    await bind(stage, None)
    assert (await attach(stage, stage.imsi)).ue_address not in (STATIC, OTHER)


def test_a_sim_has_its_own_prefix_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number, two addresses: what holds of the static address holds of its prefix."""
    plain = loadtest.simulation.plan.config_of

    def with_ipv6(name: str, plan: Plan) -> Config:
        config = plain(name, plan).model_dump()
        prefixes = {"ue_prefixes": "2001:db8::/41", "static_prefixes": "2001:db8:100::/56"}
        gateway = {**config["gateway"], **prefixes, "virtual": ()}
        return plain(name, plan).model_copy(update={"gateway": GatewayConfig.model_validate(gateway)})

    monkeypatch.setattr(loadtest.simulation.plan, "config_of", with_ipv6)

    @played
    async def script(stage: Stage) -> None:
        await bind(stage, STATIC)
        for pdn_type in (PdnType.IPV6, PdnType.IPV4V6):
            session = await attach(stage, stage.imsi, pdn_type=pdn_type)
            assert (session.ue_address, session.ue_prefix) == (STATIC, IPv6Network("2001:db8:100:9::/64"))
            assert stage.open_sessions() == [session]
        await stage.restart_node()
        assert stage.open_sessions()[0].ue_prefix == IPv6Network("2001:db8:100:9::/64")
        await bind(stage, IPv4Address("192.0.2.1"))
        with pytest.raises(Refused) as caught:
            await attach(stage, stage.imsi, pdn_type=PdnType.IPV6)
        assert caught.value.reason is AttachRefusal.STATIC_ADDRESS_UNAVAILABLE, "and none of the pool"
        assert stage.node.held["vg-1"].gateway.leases["addresses"] == 0
        await bind(stage, None)
        pooled = await attach(stage, stage.imsi, pdn_type=PdnType.IPV6)
        assert pooled.ue_prefix is not None
        assert pooled.ue_prefix.subnet_of(IPv6Network("2001:db8::/41"))

    script()  # type: ignore[call-arg]  # the stage is the decorator's


@played
async def test_a_nas_is_told_the_sims_own_address(stage: Stage) -> None:
    nas = await stage.nas()
    pooled = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    assert pooled.ue_address != STATIC
    await bind(stage, STATIC)
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    assert session.ue_address == STATIC
    await stage.restart_node()
    await nas.report(session)
    assert [each.ue_address for each in stage.open_sessions()] == [STATIC]
    await nas.detach(session)
    forgotten = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    await stage.restart_node()
    await nas.begin(forgotten)
    assert [each.ue_address for each in stage.open_sessions()] == [STATIC]
    await nas.detach(forgotten)
    await bind(stage, IPv4Address("192.0.2.1"))
    with pytest.raises(AccessDenied):
        await nas.ask_for_access(imsi=stage.imsi, apn=APN)


@played
async def test_an_address_that_goes_to_another_sim_is_taken_from_the_first_and_rests(stage: Stage) -> None:
    await bind(stage, STATIC)
    await attach(stage, stage.imsi)
    await bind(stage, None)
    other = await bind(stage, STATIC, 1)
    assert await refused(stage, other) is AttachRefusal.STATIC_ADDRESS_UNAVAILABLE
    assert stage.open_sessions() == []
    await asyncio.sleep(50)
    assert await refused(stage, other) is AttachRefusal.STATIC_ADDRESS_UNAVAILABLE
    await asyncio.sleep(20)
    session = await attach(stage, other)
    assert session.ue_address == STATIC
    await stage.node.held["vg-1"].sessions.end_sessions_of(session.sim_id, CloseReason.CUSTOMER)


@played
async def test_a_name_left_by_a_crash_is_passed_over_when_nobody_can_be_on_the_way(stage: Stage) -> None:
    await bind(stage, STATIC)
    left = AddressHolder(STATIC, "f" * 32, stage.sims[0].sim.sim_id, "vg-9", 1, stage.clock.now())
    await stage.node._world.store.holders.put(left)
    assert await refused(stage, stage.imsi) is AttachRefusal.STATIC_ADDRESS_UNAVAILABLE
    await asyncio.sleep(SETTLE_S - 1)
    assert await refused(stage, stage.imsi) is AttachRefusal.STATIC_ADDRESS_UNAVAILABLE
    await asyncio.sleep(2)
    assert (await attach(stage, stage.imsi)).ue_address == STATIC
