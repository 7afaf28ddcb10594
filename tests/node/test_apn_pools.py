"""Access points with pools of their own, before a whole node in virtual time."""

import asyncio
import math
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

import loadtest.simulation.plan
from airloom.app.operated import make_operations
from core.config import Config, GatewayConfig
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession, PeerTunnel
from core.domain.session import Access, CloseReason, NasName, PdnType, Session
from core.domain.values import replace
from core.errors import ConfigurationError, Refused
from gtp.userplane.tun import Tun
from loadtest.peers.nas import AccessDenied
from loadtest.simulation.plan import Plan
from loadtest.simulation.world import APN
from tests.node.test_radius_front_end import Script, Stage, played
from tests.node.test_static_addresses import STATIC, bind

COMMON, METERS = GatewayConfig().ue_pool, IPv4Network("10.64.0.0/24")
COMMON_IPV6, METERS_IPV6 = IPv6Network("2001:db8::/41"), IPv6Network("2001:db8:4000::/56")
APNS: list[dict[str, Any]] = [
    {"name": APN},
    {"name": "meters", "ue_pool": str(METERS), "ue_prefixes": str(METERS_IPV6)},
    {"name": "more-meters", "ue_pool": str(METERS), "ue_prefixes": str(METERS_IPV6)},
    {"name": "ipv4-only", "ue_pool": "10.65.0.0/24"},
]


def with_apns(apns: list[dict[str, Any]]) -> GatewayConfig:
    given = {
        **loadtest.simulation.plan.config_of("node-1", Plan()).gateway.model_dump(),
        "instances": (),
        "apns": apns,
    }
    return GatewayConfig.model_validate(given)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Runs a script on a stage whose access points are ``APNS``."""
    plain, gateway = loadtest.simulation.plan.config_of, with_apns(APNS)

    def config(name: str, plan: Plan) -> Config:
        return plain(name, plan).model_copy(update={"gateway": gateway})

    monkeypatch.setattr(loadtest.simulation.plan, "config_of", config)

    def run(script: Script) -> None:
        played(script)()  # type: ignore[call-arg]  # the stage is the decorator's

    return run


async def attach(stage: Stage, apn: str, pdn_type: PdnType = PdnType.IPV4, *, nsapi: int = 5) -> Session:
    peer = PeerTunnel(1, 2, "127.0.1.1", "127.0.1.1", nsapi)
    request = OpenSession(Access.GTPV1, stage.imsi, apn, peer=peer, pdn_type=pdn_type)
    return await stage.node.held["vg-1"].sessions.open(request)


def test_devices_of_an_access_point_have_addresses_and_prefixes_of_its_own_pool(
    play: Callable[[Script], None],
) -> None:
    async def script(stage: Stage) -> None:
        for nsapi, (apn, pool, prefixes) in enumerate(
            [
                (APN, COMMON, COMMON_IPV6),
                ("meters", METERS, METERS_IPV6),
                ("more-meters", METERS, METERS_IPV6),
            ]
        ):
            session = await attach(stage, apn, PdnType.IPV4V6, nsapi=5 + nsapi)
            assert session.ue_address in pool
            assert session.ue_prefix is not None
            place = int(session.ue_address) - int(pool[0])
            assert int(session.ue_prefix[0]) == int(prefixes[0]) + (place << 64), "the n-th with the n-th"
        session = await attach(stage, "ipv4-only", PdnType.IPV4V6, nsapi=9)
        assert (session.pdn_type, session.ue_prefix) == (PdnType.IPV4, None)
        assert len({each.ue_address for each in stage.open_sessions()}) == 4
        operations = make_operations(stage.node, usage=stage.node._world.store.usage, clock=stage.clock)
        (status,) = operations.status()["gateways"]
        assert status["addresses"] == {"common": 1, "10.65.0.0/24": 1, "10.64.0.0/24": 2}

    play(script)


def test_an_access_point_whose_pool_is_used_up_is_refused_and_allocates_from_no_other(
    play: Callable[[Script], None],
) -> None:
    async def script(stage: Stage) -> None:
        held = stage.node.held["vg-1"]
        pool, now = held.gateway._pools[METERS].addresses, stage.clock.monotonic()
        for blocks in held.apn_address_blocks:
            blocks._may_take_at = math.inf  # its network has no block left
        allocated = [pool.allocate(now) for _ in range(pool.unused(now))]
        for apn in ("meters", "more-meters"):
            with pytest.raises(Refused) as caught:
                await attach(stage, apn)
            assert caught.value.reason is AttachRefusal.ADDRESSES_OCCUPIED
        assert (await attach(stage, APN)).ue_address in COMMON
        for address in allocated:
            pool.release(address, now)

    play(script)


def test_a_kill_leaves_every_session_in_its_pool_and_allocates_nothing_twice(
    play: Callable[[Script], None],
) -> None:
    async def script(stage: Stage) -> None:
        before = [await attach(stage, apn, nsapi=5 + n) for n, apn in enumerate((APN, "meters", "ipv4-only"))]
        ended = await attach(stage, "meters", nsapi=9)
        await stage.node.held["vg-1"].sessions.close(ended.session_id, CloseReason.DEVICE)
        await stage.restart_node()
        assert {each.ue_address for each in stage.open_sessions()} == {each.ue_address for each in before}
        after = [await attach(stage, "meters", nsapi=10 + n) for n in range(4)]
        taken = {each.ue_address for each in (*before, ended, *after)}
        assert len(taken) == 8, "what was allocated rests"
        assert all(each.ue_address in METERS for each in after)

    play(script)


def test_a_static_address_is_the_sims_own_whatever_the_access_point(play: Callable[[Script], None]) -> None:
    async def script(stage: Stage) -> None:
        await bind(stage, STATIC)
        session = await attach(stage, "meters", PdnType.IPV4V6)
        assert (session.ue_address, session.ue_prefix) == (STATIC, IPv6Network("2001:db8:ff00:9::/64"))

    play(script)


def test_a_nas_is_promised_an_address_of_the_access_points_pool(play: Callable[[Script], None]) -> None:
    async def script(stage: Stage) -> None:
        nas = await stage.nas()
        common = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
        metered = await nas.ask_for_access(imsi=stage.imsi, apn="meters")
        assert common.ue_address in COMMON, "and given back: one reservation for each IMSI"
        assert metered.ue_address in METERS
        await stage.restart_node()  # the reservation has expired, and is restored from the NAS's report
        await nas.begin(metered)
        assert [each.ue_address for each in stage.open_sessions()] == [metered.ue_address]
        await nas.detach(metered)
        with pytest.raises(AccessDenied):
            await nas.ask_for_access(imsi=stage.imsi, apn="unknown")

    play(script)


def test_nobody_has_an_address_of_another_access_points_pool(play: Callable[[Script], None]) -> None:
    async def script(stage: Stage) -> None:
        reservations = stage.node.held["vg-1"].radius._reservations
        asker = ("127.0.3.0/24", NasName("", "127.0.3.1", "127.0.3.1"))
        grant = reservations.reserve(stage.imsi, asker, apn=APN, pool=METERS)
        for pool in (None, IPv4Network("10.65.0.0/24")):
            with pytest.raises(Refused):
                reservations.claim(stage.imsi, asker, grant.session_id, grant.address, pool)
        assert reservations.claim(stage.imsi, asker, grant.session_id, grant.address, METERS) == grant
        stage.node.held["vg-1"].gateway.release_address(grant.address, stage.imsi)

    play(script)


def overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    return one.version == other.version and one.overlaps(other)


class RecordedTun(Tun):
    """Keeps what is led to it; no device is behind it."""

    def __init__(self) -> None:
        self.routes: set[IPv4Network | IPv6Network] = set()
        self.is_open = True
        self.write = len
        self.mtu_bytes = 0
        self.mtu_bytes_max = 1_464

    def read_into(self, on_packet: Callable[[bytes], object]) -> None:
        return None

    def route(self, network: IPv4Network | IPv6Network) -> None:
        self.routes.add(network)

    def unroute(self, network: IPv4Network | IPv6Network) -> None:
        self.routes.remove(network)

    def resize(self, mtu_bytes: int) -> None:
        if mtu_bytes > self.mtu_bytes_max:
            raise ConfigurationError("gateway.apns: mtu_bytes: the device does not take it")
        self.mtu_bytes = mtu_bytes

    def close(self) -> None:
        self.is_open = False


def test_what_an_access_point_allocates_is_led_to_its_own_device(
    play: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, lives = Stage._adapters, list[dict[str, RecordedTun]]()

    def opened(*_: object) -> dict[str, RecordedTun]:
        lives.append({"": RecordedTun(), "meters": RecordedTun()})
        return lives[-1] | {"more-meters": lives[-1]["meters"]}

    monkeypatch.setattr(Stage, "_adapters", lambda *args: replace(plain(*args), open_tuns=opened))
    static: set[IPv4Network | IPv6Network] = {IPv4Network(STATIC), IPv6Network("2001:db8:ff00:9::/64")}

    def led(tun: RecordedTun) -> set[str]:
        pools: dict[str, IPv4Network | IPv6Network] = {
            "common": COMMON,
            "common6": COMMON_IPV6,
            "own": METERS,
            "own6": METERS_IPV6,
            "other": IPv4Network("10.65.0.0/24"),
        }
        return {name for name, pool in pools.items() for network in tun.routes if overlap(network, pool)}

    async def script(stage: Stage) -> None:
        await attach(stage, "meters")
        await stage.restart_node()
        common, meters = lives[-1].values()
        assert (led(common), led(meters)) == ({"common", "common6", "other"}, {"own", "own6"})
        await bind(stage, STATIC)
        for apn, tun, other in (
            ("meters", meters, common),
            (APN, common, meters),
            ("meters", meters, common),
        ):
            await attach(stage, apn)
            assert tun.routes >= static
            assert not static & other.routes, "a static address goes where its session's access point does"
        await stage.node.drain()
        assert not (common.is_open or meters.is_open)
        await stage.restart_node()
        assert lives[-1]["meters"].routes >= static, "and so after a kill"

    play(script)


def test_a_running_node_takes_over_the_whole_of_an_mtu_or_nothing(
    play: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, common, meters = Stage._adapters, RecordedTun(), RecordedTun()
    tuns = {"": common, "meters": meters, "more-meters": meters}
    monkeypatch.setattr(Stage, "_adapters", lambda *args: replace(plain(*args), open_tuns=lambda *_: tuns))

    async def script(stage: Stage) -> None:
        await stage.restart_node()
        config, held = stage.node._config, stage.node.held["vg-1"]
        links = held.user_plane._forwarding._links
        session = await attach(stage, APN)
        tunnel = held.user_plane._forwarding._by_session[session.session_id]

        def wanted(common: int, meters: int) -> Config:
            of = {APN: common, "meters": meters, "more-meters": meters - 10}
            apns = [{**apn, "mtu_bytes": of.get(apn["name"], 1_280)} for apn in APNS]
            return config.model_copy(update={"gateway": with_apns(apns)})

        assert stage.node.reload(wanted(1_400, 1_300)) == ["gateway.apns"]
        served = held.gtp.endpoint._serving.apns
        assert (served[APN].mtu_bytes, tunnel.link.mtu_bytes, common.mtu_bytes) == (1_400, 1_400, 1_400)
        assert (links.of("more-meters").mtu_bytes, meters.mtu_bytes) == (1_290, 1_300)
        meters.mtu_bytes_max = 1_300
        with pytest.raises(ConfigurationError, match="does not take it"):
            stage.node.reload(wanted(1_410, 1_310))
        assert (tunnel.link.mtu_bytes, common.mtu_bytes, meters.mtu_bytes) == (1_400, 1_400, 1_300)
        assert held.gtp.endpoint._serving.apns[APN].mtu_bytes == 1_400
        assert stage.node._config.gateway.access_points[0].mtu_bytes == 1_400

    play(script)


def test_a_gateway_that_is_taken_after_a_reload_has_the_mtus_of_then(
    play: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = Stage._adapters, list[GatewayConfig]()

    def opened(config: GatewayConfig, _: str) -> dict[str, RecordedTun]:
        asked.append(config)
        return {}

    monkeypatch.setattr(Stage, "_adapters", lambda *args: replace(plain(*args), open_tuns=opened))

    async def script(stage: Stage) -> None:
        await stage.restart_node()
        apns = [{**apn, "mtu_bytes": 1_300} for apn in APNS]
        stage.node.reload(stage.node._config.model_copy(update={"gateway": with_apns(apns)}))
        stage.node.coordinator._slots["vg-1"].wanted_back.set()
        await asyncio.sleep(30)
        assert [config.mtu_bytes for config in asked][-2:] == [1_358, 1_300]

    play(script)


def test_a_running_node_keeps_its_pools(play: Callable[[Script], None]) -> None:
    async def script(stage: Stage) -> None:
        config = stage.node._config
        for apns in (APNS[:-1], [*APNS, {"name": "cams", "ue_pool": "10.66.0.0/24"}]):
            with pytest.raises(ConfigurationError, match=r"gateway\.apns: ue_pool.*restart"):
                stage.node.reload(config.model_copy(update={"gateway": with_apns(apns)}))
        more = with_apns([*APNS, {"name": "cams"}])
        assert stage.node.reload(config.model_copy(update={"gateway": more})) == ["gateway.apns"]
        assert (await attach(stage, "cams")).ue_address in COMMON

    play(script)


@pytest.mark.parametrize(
    ("gateway", "told"),
    [
        (
            {"apns": [{"name": "a", "ue_pool": "10.200.0.0/16"}]},
            "apns a: ue_pool 10.200.0.0/16 overlaps ue_pool 10.128.0.0/9; choose",
        ),
        (
            {"apns": [{"name": "a", "ue_pool": "10.1.0.0/16"}, {"name": "b", "ue_pool": "10.1.2.0/24"}]},
            "apns b: ue_pool 10.1.2.0/24 overlaps apns a: ue_pool 10.1.0.0/16; choose",
        ),
        (
            {"static_pool": "10.1.0.0/24", "apns": [{"name": "a", "ue_pool": "10.1.0.0/16"}]},
            "static_pool 10.1.0.0/24 overlaps apns a: ue_pool 10.1.0.0/16; choose",
        ),
        (
            {"address": "10.1.0.1", "apns": [{"name": "a", "ue_pool": "10.1.0.0/16"}]},
            "address of vg-1 10.1.0.1/32 overlaps apns a: ue_pool 10.1.0.0/16; choose",
        ),
        (
            {"apns": [{"name": "a", "ue_pool": "100.127.64.0/18"}]},
            "gateway.apns a: ue_pool 100.127.64.0/18 overlaps edge.platform_network 100.127.0.0/16; choose",
        ),
        (
            {
                "ue_prefixes": "2001:db8::/32",
                "apns": [{"name": "a", "ue_pool": "10.1.0.0/16", "ue_prefixes": "2001:db8:1::/48"}],
            },
            "apns a: ue_prefixes 2001:db8:1::/48 overlaps ue_prefixes 2001:db8::/32; choose",
        ),
        (
            {"apns": [{"name": "a", "ue_prefixes": "2001:db8::/32"}]},
            "apns a: ue_prefixes 2001:db8::/32: must be ue_pool beside it",
        ),
        (
            {"apns": [{"name": "a", "ue_pool": "10.1.0.0/16", "ue_prefixes": "2001:db8::/56"}]},
            "apns a: ue_prefixes 2001:db8::/56: must be /48 or wider for 10.1.0.0/16",
        ),
        (
            {
                "ue_prefixes": "2001:db8::/32",
                "apns": [{"name": "a", "ue_pool": "10.1.0.0/16", "pdn_types": ["ipv6"]}],
            },
            "apns a: pdn_types with IPv6 need ue_prefixes",
        ),
        (
            {
                "static_pool": "10.2.0.0/24",
                "apns": [{"name": "a", "ue_pool": "10.1.0.0/16", "ue_prefixes": "2001:db8::/48"}],
            },
            "with a static_pool both",
        ),
        (
            {
                "apns": [
                    {"name": "a", "ue_pool": "10.1.0.0/16"},
                    {"name": "b", "ue_pool": "10.1.0.0/16", "ue_prefixes": "2001:db8::/48"},
                ]
            },
            "apns b: shares ue_pool 10.1.0.0/16 with a, so ue_pool, ue_prefixes and tun must be equal",
        ),
        (
            {"apns": [{"name": f"a{n}", "ue_pool": f"10.1.{n}.0/24"} for n in range(65)]},
            "apns: at most 64 different ue_pool",
        ),
        (
            {"apns": [{"name": "a", "tun": "meters"}]},
            "apns a: tun meters must have an ue_pool beside it; or leave it out",
        ),
        (
            {"tun": "meters", "apns": [{"name": "a", "tun": "meters", "ue_pool": "10.1.0.0/16"}]},
            "apns a: tun meters must not be gateway.tun; or leave it out",
        ),
        (
            {
                "apns": [{"name": "a", "tun": "a12345678901234", "ue_pool": "10.1.0.0/16"}],
                "instances": [{"id": "a", "address": "127.0.0.1"}, {"id": "b", "address": "127.0.0.2"}],
            },
            "tun a12345678901234: a number is appended for each gateway instance; at most 13 characters",
        ),
    ],
)
def test_pools_that_do_not_fit_are_named_with_the_fix(gateway: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Config.model_validate({"gateway": gateway})
    assert told in str(caught.value)
