"""Configuration: an unknown key or a bad value is one line that names the key and the way out."""

import re
from pathlib import Path

import pytest

from core.app.adapters import demand_shared_objects
from core.config import Config, RadiusConfig
from core.config_file import load
from core.domain.session import PdnType
from core.errors import ConfigurationError


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text('[api]\nport = 8081\nhost = "127.0.0.2"\n')
    config = load(file, {"AIRLOOM_API__PORT": "8082", "AIRLOOM_GATEWAY__APNS": "one,two", "AIRLOOM_X": ""})
    assert (config.api.host, config.api.port) == ("127.0.0.2", 8082)
    assert [apn.name for apn in config.gateway.apns] == ["one", "two"]


def test_nothing_configured_is_the_default() -> None:
    assert load(None, {}) == Config()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[api]\nprot = 1\n", "api.prot: unknown key; known here: host, port, sandbox"),
        ("[apis]\nport = 1\n", "apis: unknown key; known here: node, control, gateway"),
        ("[api]\nport = 99999\n", "api.port: Input should be less than or equal to 65535 (got 99999)"),
        ('[gateway]\naddress = "localhost"\n', "gateway.address: "),
        ("[gateway]\necho_interval_s = 59\n", "must be 0 (none are sent) or at least 60"),
        (
            '[[gateway.peers]]\nname = "a"\nnetworks = ["10.0.0.0/8"]\n'
            '[[gateway.peers]]\nname = "b"\nnetworks = ["10.0.0.0/24", "10.1.0.0/16"]\n',
            "gateway.peers: b: 10.0.0.0/24 overlaps a's 10.0.0.0/8",
        ),
        ('[[gateway.peers]]\nname = "a"\nnetworks = ["10.0.0.0/8"]\nspeed = 1\n', "gateway.peers.0.speed: "),
        (
            '[[gateway.peers]]\nname = "a"\nnetworks = ["10.0.0.0/8"]\nmay_take_over = ["b"]\n',
            "gateway.peers: a: may_take_over names b, which is no other partner in gateway.peers",
        ),
        (
            "[gateway.refusals.sim_inactve]\ngtpv1 = 199\n",
            "gateway.refusals: sim_inactve: no refusal with a cause of its own; known here: unknown_",
        ),
        (
            "[gateway.refusals.unknown_session]\ngtpv1 = 199\n",
            "gateway.refusals: unknown_session: no refusal",
        ),
        ("[gateway.refusals.sim_inactive]\ngtpv3 = 1\n", "gateway.refusals.sim_inactive.gtpv3: unknown key"),
        (
            "[gateway.refusals.sim_inactive]\ngtpv1 = 128\n",
            "gateway.refusals.sim_inactive.gtpv1: Input should be",
        ),
        (
            "[gateway.refusals.sim_inactive]\ngtpv2 = 16\n",
            "gateway.refusals.sim_inactive.gtpv2: Input should be",
        ),
        ("[gateway]\nidle_s = 59\n", "gateway.idle_s: must be 0 (off) or at least 60"),
        (
            "[gateway]\nidle_s = 100\n[usage]\nreport_interval_s = 30\n",
            "gateway.idle_s: must be 0 (off)",
        ),
        (
            '[[radius.clients]]\nnetwork = "10.0.0.0/8"\nsecret = "12345678"\nmay_take_over = ["beta"]\n',
            "radius.clients: 10.0.0.0/8: may_take_over: beta: no such client; known: 10.0.0.0/8",
        ),
        (
            '[[radius.clients]]\nnetwork = "10.0.0.0/8"\nsecret = "12345678"\n' * 2,
            "radius.clients: 10.0.0.0/8: stands twice",
        ),
        (
            '[[radius.clients]]\nnetwork = "10.0.0.0/8"\nsecret = "12345678"\n'
            'apns = ["a"]\ndefault_apn = "b"\n',
            "radius.clients: 10.0.0.0/8: default_apn: b must be one of apns",
        ),
        ("[api\n", "not TOML"),
        ("api = 3\n", "api: "),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert told in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "absent.toml", {})


TWO = (
    '[[gateway.virtual]]\nid = "vg-1"\naddress = "127.0.0.1"\nue_pool = "10.128.0.0/16"\ndoors = ["gtp"]\n'
    '[[gateway.virtual]]\nid = "vg-2"\naddress = "127.0.0.2"\nue_pool = "10.129.0.0/16"\ndoors = ["radius"]\n'
    '[[radius.clients]]\nnetwork = "127.0.3.0/24"\nsecret = "a secret of NASes"\n'
)


@pytest.mark.parametrize(
    ("roles", "holdable"),
    [
        (["gateway"], ["vg-1"]),
        (["aaa", "edge"], ["vg-2"]),
        (["all"], ["vg-1", "vg-2"]),
        (["api", "meter"], []),
        ([], ["vg-1", "vg-2"]),
    ],
)
def test_a_node_holds_what_its_roles_can_open(tmp_path: Path, roles: list[str], holdable: list[str]) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text(TWO)
    config = load(file, {}, roles=roles)
    assert [each.id for each in config.holdable] == holdable


def test_without_clients_radius_needs_no_role() -> None:
    assert [each.id for each in load(None, {}, roles=["gateway"]).holdable] == ["vg-1"]


@pytest.mark.parametrize(
    ("roles", "environment", "told"),
    [
        (
            ["gateway"],
            {"AIRLOOM_RADIUS__CLIENTS": '[{"network": "127.0.3.0/24", "secret": "a secret of NASes"}]'},
            "node.roles: vg-1 has the doors gtp, radius, so whoever holds it also needs the role aaa",
        ),
        (["gatway"], {}, "node.roles.0: Input should be 'gateway', 'aaa', 'edge', 'api' or 'meter'"),
        (["aaa"], {"AIRLOOM_GATEWAY__DOORS": "radius"}, "gateway.doors: vg-1 has none that is open"),
        (
            ["gateway"],
            {"AIRLOOM_EDGE__NODES": "http://10.0.0.2:8090"},
            "edge.nodes: control.secret must be set, the same as theirs",
        ),
    ],
)
def test_roles_that_do_not_fit_are_named(roles: list[str], environment: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, environment, roles=roles)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("interim_s", "intervals", "silent_s"),
    [(600, 3, 1_800), (60, 3, 1_800), (600, 4, 2_400), (3_600, 2, 7_200)],
)
def test_a_nas_may_be_silent_for_some_intervals_and_half_an_hour(
    interim_s: int, intervals: int, silent_s: int
) -> None:
    assert RadiusConfig(interim_s=interim_s, silent_intervals=intervals).silent_s == silent_s


def test_no_device_reaches_the_gateways_nor_the_operators_own_networks() -> None:
    networks = load(None, {"AIRLOOM_GATEWAY__CORE_NETWORKS": "192.0.2.0/24,fd00:c0de::/32"}).gateway.forbidden
    assert [str(each) for each in networks] == ["127.0.0.1/32", "192.0.2.0/24", "fd00:c0de::/32"]


def test_the_user_plane_keeps_to_the_smallest_link(tmp_path: Path) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text('[gateway]\napns = ["internet", {name = "meters", mtu_bytes = 1358}]\n')
    assert load(file, {}).gateway.mtu_bytes == 1_358
    assert load(None, {}).gateway.mtu_bytes == 1_358


def test_sequence_numbers_take_their_octets_from_the_link() -> None:
    given = {"AIRLOOM_GATEWAY__APNS": '[{"name": "a", "mtu_bytes": 1464}]'}
    assert load(None, given).gateway.mtu_bytes == 1_464
    gateway = load(None, {**given, "AIRLOOM_GATEWAY__USER_SEQUENCE_NUMBERS": "true"}).gateway
    assert {gateway.mtu_bytes, *(each.mtu_bytes for each in gateway.access_points)} == {1_460}


def test_an_access_point_is_a_name_or_a_table(tmp_path: Path) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text(
        '[gateway]\nue_prefixes = "2001:db8::/32"\n'
        'apns = ["internet", {name = "meters", pdn_types = ["ipv6"], dns_ipv6 = ["2001:db8:ff::53"]}]\n'
    )
    internet, meters = load(file, {}).gateway.access_points
    assert internet.pdn_types == set(PdnType)
    assert [str(address) for address in internet.dns] == ["100.127.0.53", "100.127.1.53"]
    assert meters.pdn_types == {PdnType.IPV6}
    assert [str(address) for address in meters.dns_ipv6] == ["2001:db8:ff::53"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ue_prefixes = "2001:db8::/48"', "must be /41 or wider for 10.128.0.0/9"),
        ('static_prefixes = "2001:db8::/32"', "must be static_pool beside it"),
        ('apns = [{name = "meters", pdn_types = ["ipv6"]}]', "pdn_types with IPv6 need ue_prefixes"),
        ('ue_prefixes = "2001:db8::/32"\nstatic_pool = "10.1.0.0/16"', "with a static_pool both"),
    ],
)
def test_prefixes_must_fit_the_pools(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text(f"[gateway]\n{text}\n")
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        load(file, {})


@pytest.mark.parametrize(("role", "told"), [("api", "exports"), ("edge", "dead letters")])
def test_nodes_that_share_a_store_share_exports_and_dead_letters(role: str, told: str) -> None:
    shared = {"AIRLOOM_STORE__CASSANDRA": "127.0.0.1"}
    with pytest.raises(ConfigurationError, match=rf"objects.s3: is not set, .*{told}.*objects.folder"):
        demand_shared_objects(load(None, shared, roles=[role]))
    for name, value in (("S3", "bucket"), ("FOLDER", "/mnt/shared")):
        demand_shared_objects(load(None, {**shared, f"AIRLOOM_OBJECTS__{name}": value}, roles=[role]))
    demand_shared_objects(load(None, shared, roles=["gateway"]))
    demand_shared_objects(load(None, {}, roles=[role]))


def test_objects_are_in_one_place() -> None:
    both = {"AIRLOOM_OBJECTS__S3": "bucket", "AIRLOOM_OBJECTS__FOLDER": "/mnt/shared"}
    with pytest.raises(ConfigurationError, match="both are set"):
        load(None, both)
