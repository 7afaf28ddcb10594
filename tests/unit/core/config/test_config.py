"""Configuration: an unknown key or a bad value is one line that names the key and the way out."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from core.config import Config, GatewayConfig, RadiusConfig, renamed
from core.config_file import load, mistakes_of
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
        ("[api]\nport = 99999\n", "api.port: must be at most 65535 (got 99999)"),
        ("[gateway]\necho_interval_s = 59\n", "must be 0 (disabled) or at least 60"),
        (
            '[[gateway.peers]]\nname = "a"\nnetworks = ["10.0.0.0/8"]\n'
            '[[gateway.peers]]\nname = "b"\nnetworks = ["10.0.0.0/24", "10.1.0.0/16"]\n',
            "gateway.peers: b: 10.0.0.0/24 overlaps a's 10.0.0.0/8",
        ),
        ('[[gateway.peers]]\nname = "a"\nnetworks = ["10.0.0.0/8"]\nspeed = 1\n', "gateway.peers.0.speed: "),
        (
            '[[gateway.peers]]\nname = "a"\nnetworks = ["10.0.0.0/8"]\nmay_take_over = ["b"]\n',
            "gateway.peers: a: may_take_over names b, which is not another partner in gateway.peers",
        ),
        (
            "[gateway.refusals.sim_inactve]\ngtpv1 = 199\n",
            "gateway.refusals: sim_inactve: unknown refusal; known: unknown_",
        ),
        (
            "[gateway.refusals.unknown_session]\ngtpv1 = 199\n",
            "gateway.refusals: unknown_session: unknown refusal",
        ),
        (
            "[gateway.refusals.sim_inactive]\ngtpv3 = 1\n",
            "gateway.refusals.sim_inactive.gtpv3: unknown key; known here: gtpv1, gtpv2",
        ),
        (
            "[gateway.refusals.sim_inactive]\ngtpv1 = 128\n",
            "gateway.refusals.sim_inactive.gtpv1: must be at least 192 (got 128)",
        ),
        (
            "[gateway.refusals.sim_inactive]\ngtpv2 = 16\n",
            "gateway.refusals.sim_inactive.gtpv2: must be at least 64 (got 16)",
        ),
        ("[gateway]\nidle_timeout_s = 59\n", "gateway.idle_timeout_s: must be 0 (disabled) or at least 60"),
        (
            "[gateway]\nidle_timeout_s = 100\n[usage]\nreport_interval_s = 30\n",
            "gateway.idle_timeout_s: must be 0 (disabled)",
        ),
        (
            '[[radius.clients]]\nnetwork = "10.0.0.0/8"\nsecret = "12345678"\nmay_take_over = ["beta"]\n',
            "radius.clients: 10.0.0.0/8: may_take_over: beta: no such client; known: 10.0.0.0/8",
        ),
        (
            '[[radius.clients]]\nnetwork = "10.0.0.0/8"\nsecret = "12345678"\n' * 2,
            "radius.clients: 10.0.0.0/8: used twice",
        ),
        (
            '[[radius.clients]]\nnetwork = "10.0.0.0/8"\nsecret = "12345678"\n'
            'apns = ["a"]\ndefault_apn = "b"\n',
            "radius.clients: 10.0.0.0/8: default_apn: b must be one of apns",
        ),
        ('[gateway]\naddress = "localhost"\n', "gateway.address: must be an IPv4 address, as 10.0.0.12"),
        ('[gateway]\nue_pool = "10.0.0.1/8"\n', "must be an IPv4 network without host bits, as 10.0.0.0/24"),
        (
            '[gateway]\ncore_networks = ["10.0.0.1/8"]\n',
            "gateway.core_networks.0: must be an IPv4 network without host bits, as 10.0.0.0/24, or an IPv6"
            " network without host bits, as 2001:db8::/32 (got '10.0.0.1/8')",
        ),
        ('[node]\nname = "Node 1"\n', "node.name: must be 1 to 63 lower-case letters, digits, '.' and '-'"),
        ("[node]\nname = 1\n", "node.name: must be a text (got 1)"),
        ("[node]\nroles = []\n", "node.roles: must have 1 or more items"),
        ('[stream]\nendpoint = "localhost"\n', "stream.endpoint: must be a URL, as https://127.0.0.1:4566"),
        ('[billing]\ncurrency = "GBP"\n', "billing.currency: must be 'USD', 'JPY' or 'EUR' (got 'GBP')"),
        ("[billing]\nunit_bytes = 1.5\n", "billing.unit_bytes: must be a whole number (got 1.5)"),
        ("[api\n", "not TOML"),
        ("api = 3\n", "api: must be a table (got 3)"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "airloom.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert told in str(caught.value)


WRONG: tuple[Any, ...] = (
    {},
    {"x": {"y": 1}},
    [],
    [[]],
    [{}],
    "",
    "\0",
    "x" * 2_000,
    -1,
    10**400,
    1.5,
    float("nan"),
    [1.5, {}],
)
PHRASES = re.compile(
    r"[Ii]nput|[Ss]tring|[Tt]uple|[Dd]ictionary|valid|after validation|instance of|[Ff]ield|None"
)
"""What pydantic says."""


def wrong_values(model: type[BaseModel], known: dict[str, object]) -> Iterator[dict[str, object]]:
    """Tables of this kind in which one value, of the table or of one in it, is wrong in each way."""
    yield {**known, "unknown": 1}
    for name, field in model.model_fields.items():
        for value in (*WRONG, *([each] for each in WRONG)):
            yield {**known, name: value}
        if inner := [each for each in kinds(field.annotation) if issubclass(each, BaseModel)]:
            for value in wrong_values(inner[0], {}):
                is_list = get_origin(field.annotation) is tuple
                yield {**known, name: [value] if is_list else value}


def kinds(annotation: Any) -> Iterator[type]:
    """The classes that a type is made of."""
    if get_args(annotation):
        for each in get_args(annotation):
            yield from kinds(each)
    elif isinstance(annotation, type):
        yield annotation


def test_no_mistake_is_told_in_the_words_of_a_library() -> None:
    """Each key, wrong in each way: its name and what it must be."""
    told: set[str] = set()
    for values in wrong_values(Config, {}):
        try:
            Config.model_validate(values)
        except ValidationError as error:
            told.update(each for mistake in mistakes_of(error) for each in mistake.splitlines())
    assert len(told) > 1_000
    alien = [line for line in told if PHRASES.search(re.sub(r"\(got .*|known here: .*", "", line))]
    assert not alien, "\n".join(sorted(alien)[:20])
    unnamed = [line for line in told if not re.match(r"[a-z]+(\.[a-z0-9_]+)*: ", line)]
    assert not unnamed, "\n".join(sorted(unnamed)[:20])


def test_a_variable_with_one_underscore_is_named_with_the_right_one() -> None:
    with pytest.raises(ConfigurationError, match=r"AIRLOOM_API_PORT: .* write AIRLOOM_API__PORT"):
        load(None, {"AIRLOOM_API_PORT": "8081"})
    others = dict.fromkeys(("ENDPOINT", "AUTH_KEY", "AUTH_KEY_ID", "PROFILE", "PASSWORD", "PROFILE_DIR"), "x")
    assert load(None, {f"AIRLOOM_{name}": value for name, value in others.items()}) == Config()


RENAMED_HERE = {"gateway.gates": "gateway.peers", "gateway.peers.label": "gateway.peers.name"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gateway]\ngates = []\n", "gateway.gates: is now gateway.peers"),
        (
            '[[gateway.peers]]\nlabel = "a"\nname = "a"\nnetworks = ["10.0.0.0/8"]\n',
            "gateway.peers.0.label: is now gateway.peers.name",
        ),
    ],
)
def test_a_renamed_key_is_refused_with_its_present_name(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renamed, "RENAMED", RENAMED_HERE)
    file = tmp_path / "airloom.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("AIRLOOM_GATEWAY__GATES", "AIRLOOM_GATEWAY__GATES: is now AIRLOOM_GATEWAY__PEERS"),
        ("AIRLOOM_GATEWAY_GATES", "AIRLOOM_GATEWAY_GATES: .* write AIRLOOM_GATEWAY__PEERS, with two"),
    ],
)
def test_the_variable_of_a_renamed_key_is_refused_with_its_present_name(
    variable: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renamed, "RENAMED", RENAMED_HERE)
    with pytest.raises(ConfigurationError, match=said):
        load(None, {variable: "x"})


def keys_in(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Each key, those of tables in tables too, without numbers of items."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}"
        for each in kinds(field.annotation):
            if issubclass(each, BaseModel):
                yield from keys_in(each, f"{path}{name}.")


def test_renamed_keys_are_no_keys_and_their_new_names_are() -> None:
    known = set(keys_in(Config))
    assert not known & renamed.RENAMED.keys()
    assert set(renamed.RENAMED.values()) <= known


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "absent.toml", {})


TWO = (
    '[[gateway.instances]]\nid = "vg-1"\naddress = "127.0.0.1"\nue_pool = "10.128.0.0/16"\nprotocols ='
    ' ["gtp"]\n'
    '[[gateway.instances]]\nid = "vg-2"\naddress = "127.0.0.2"\nue_pool = "10.129.0.0/16"\nprotocols ='
    ' ["radius"]\n'
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
            "node.roles: vg-1 has the protocols gtp, radius, so a node that serves it also needs the role"
            " aaa",
        ),
        (["gatway"], {}, "node.roles.0: must be 'gateway', 'aaa', 'edge', 'api' or 'meter' (got 'gatway')"),
        (["aaa"], {"AIRLOOM_GATEWAY__PROTOCOLS": "radius"}, "gateway.protocols: vg-1 no protocol is enabled"),
        (
            ["gateway"],
            {"AIRLOOM_EDGE__NODES": "http://10.0.0.2:8090"},
            "edge.nodes: control.secret must be set, to the edge nodes' value",
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
    assert RadiusConfig(interim_s=interim_s, interim_missed_max=intervals).silent_s == silent_s


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
    with pytest.raises(ConfigurationError, match=rf"objects.s3: not set, .*{told}.*objects.folder"):
        load(None, shared, roles=[role]).demand_shared_objects()
    for name, value in (("S3", "bucket"), ("FOLDER", "/mnt/shared")):
        load(None, {**shared, f"AIRLOOM_OBJECTS__{name}": value}, roles=[role]).demand_shared_objects()
    load(None, shared, roles=["gateway"]).demand_shared_objects()
    load(None, {}, roles=[role]).demand_shared_objects()


def test_objects_are_in_one_place() -> None:
    both = {"AIRLOOM_OBJECTS__S3": "bucket", "AIRLOOM_OBJECTS__FOLDER": "/mnt/shared"}
    with pytest.raises(ConfigurationError, match="both are set"):
        load(None, both)


def test_each_instance_has_tun_devices_of_its_own() -> None:
    pool, own = IPv4Network("10.128.0.0/9"), IPv4Network("10.64.0.0/16")
    gateway = GatewayConfig.model_validate(
        {
            "tun": "tun",
            "apns": ["internet", {"name": "meters", "ue_pool": str(own), "tun": "mtun"}],
            "instances": [{"id": "vg-1", "address": "192.0.2.1"}, {"id": "vg-2", "address": "192.0.2.2"}],
        }
    )
    assert gateway.tun_devices("vg-1") == {"": ("tun", pool), "meters": ("mtun", own)}
    assert gateway.tun_devices("vg-2") == {"": ("tun-1", pool), "meters": ("mtun-1", own)}
