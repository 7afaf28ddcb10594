"""A group's configuration: what has an effect is taken, what has none is refused by its name."""

from typing import Any

import pytest

from core.domain.account import Group
from core.domain.group_settings import NAMESPACES
from tests.contract.stores import NOW
from tests.support.api import Tenant, make_world, tenants

BEAM = {"name": "x", "enabled": True, "destination": "mqtts://example.com:8883"}


@pytest.mark.parametrize(("namespace", "values", "names"), [
    ("SoracomAir", {"useCustomDns": True, "dnsServers": ["8.8.8.8"]}, "SoracomAir.useCustomDns: not"),
    ("SoracomAir", {"enabled": False, "dnsServers": ["1.1.1.1"]}, "SoracomAir.dnsServers: not supported"),
    ("SoracomAir", {"dnsServers": ["192.168.0.5"]}, "SoracomAir.dnsServers: not supported"),
    ("SoracomAir", {"useVpg": True}, "SoracomAir.useVpg: not supported"),
    ("SoracomAir", {"ipLinkMtu": 1400}, "SoracomAir.ipLinkMtu: not supported"),
    ("SoracomAir", {"locationEnabled": True}, "SoracomAir.locationEnabled: not supported"),
    ("SoracomAir", {"sessionEventEnabled": True}, "SoracomAir.sessionEventEnabled: not supported"),
    ("SoracomAir", {"binaryParserEnabled": True}, "SoracomAir.binaryParserEnabled: not supported"),
    ("SoracomAir", {"metadata": {"enabled": True, "readonly": False}}, "SoracomAir.metadata: readonly"),
    ("SoracomAir", {"metadata": {"enabled": True, "allowOrigin": "*"}}, "SoracomAir.metadata: allowOrigin"),
    ("SoracomAir", {"metadata": {"enabled": "yes"}}, "SoracomAir.metadata: must have enabled"),
    ("SoracomAir", {"metadata": True}, "SoracomAir.metadata: must have enabled"),
    ("SoracomAir", {"userdata": 5}, "SoracomAir.userdata: must be a text"),
    ("SoracomAir", {"gatePrivacySeparatorEnabled": 0}, "SoracomAir.gatePrivacySeparatorEnabled: must"),
    ("SoracomAir", {"authentication": {"username": "x"}}, "SoracomAir.authentication: must have username"),
    ("SoracomAir", {"authenticationRequired": True, "username": "x"}, "password must be set with it"),
    ("SoracomBeam", {"mqtt://beam.soracom.io:1883": BEAM}, "SoracomBeam.mqtt://beam.soracom.io:1883: not"),
    ("SoracomFunnel", {"enabled": True}, "SoracomFunnel.enabled: not supported"),
    ("SoracomFunnel", {"contentType": "json"}, "SoracomFunnel.contentType: not supported"),
    ("UnifiedEndpoint", {"defaultFormat": "json"}, "UnifiedEndpoint.defaultFormat: not supported"),
    *((name, {"enabled": True}, f"{name}.enabled: not supported") for name in sorted(NAMESPACES)),
])  # fmt: skip
async def test_what_has_no_effect_is_refused_by_its_name(
    namespace: str, values: dict[str, Any], names: str
) -> None:
    async with tenants(make_world()) as (tenant, _):
        refused = await tenant.call("POST", "/groups", {"configuration": {namespace: values}})
        assert (refused.status, refused.body["code"]) == (400, "AIR0004")
        assert names in refused.body["message"]
        path = await group(tenant)
        again = await tenant.call("PUT", f"{path}/configuration/{namespace}", parameters(values))
        assert (again.status, again.body["message"]) == (400, refused.body["message"])
        assert (await tenant.get(path))["configuration"] == {}


@pytest.mark.parametrize(("namespace", "values"), [
    ("SoracomAir", {"metadata": {"enabled": True, "readonly": True, "allowOrigin": ""}, "userdata": "x"}),
    ("SoracomAir", {"metadata": {"enabled": False, "readonly": False, "allowOrigin": "*"}}),
    ("SoracomAir", {"authenticationRequired": True, "username": "x", "password": "y"}),
    ("SoracomAir", {"authentication": {"username": "x", "password": "y"}}),
    ("SoracomAir", {"gatePrivacySeparatorEnabled": False, "useCustomDns": False, "dnsServers": []}),
    ("SoracomAir", {"ipLinkMtu": None, "useVpg": False, "vpgId": "", "metadata": None}),
    ("SoracomFunnel", {"enabled": False, "destination": {"provider": "aws"}, "contentType": "json"}),
    ("SoracomBeam", {"mqtt://beam.soracom.io:1883": {**BEAM, "enabled": False}}),
    ("SoracomHarvest", {"enabled": False}),
])  # fmt: skip
async def test_what_has_an_effect_or_switches_off_is_taken(namespace: str, values: dict[str, Any]) -> None:
    async with tenants(make_world()) as (tenant, _):
        made = await tenant.call("POST", "/groups", {"configuration": {namespace: values}})
        assert (made.status, made.body["configuration"]) == (201, {namespace: values})
        path = await group(tenant)
        put = await tenant.call("PUT", f"{path}/configuration/{namespace}", parameters(values))
        assert (put.status, put.body["configuration"]) == (200, {namespace: values})


async def test_what_an_earlier_version_took_can_be_read_and_removed_and_no_more_switched_on() -> None:
    world = make_world()
    async with tenants(world) as (tenant, _):
        old: dict[str, dict[str, Any]] = {
            "SoracomFunnel": {"enabled": True, "contentType": "json"},
            "SoracomAir": {"useVpg": True},
        }
        await world.store.groups.put(Group("old", tenant.operator_id, NOW, NOW, old))
        assert (await tenant.get("/groups/old"))["configuration"] == old
        tag = [{"tagName": "name", "tagValue": "x"}]
        assert (await tenant.call("PUT", "/groups/old/tags", tag)).status == 200
        userdata = parameters({"userdata": "x"})
        assert (await tenant.call("PUT", "/groups/old/configuration/SoracomAir", userdata)).status == 200
        off = parameters({"enabled": False})
        assert (await tenant.call("PUT", "/groups/old/configuration/SoracomFunnel", off)).status == 200
        on = parameters({"enabled": True})
        assert (await tenant.call("PUT", "/groups/old/configuration/SoracomFunnel", on)).status == 400
        assert (await tenant.call("DELETE", "/groups/old/configuration/SoracomAir/useVpg")).status == 204
        assert (await tenant.call("DELETE", "/groups/old/configuration/SoracomFunnel")).status == 204
        assert (await tenant.call("DELETE", "/groups/old")).status == 204


async def group(tenant: Tenant) -> str:
    made = await tenant.call("POST", "/groups", {})
    return f"/groups/{made.body['groupId']}"


def parameters(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]
