"""Every operation that is offered, in the order in which paths are matched.

Rules: a path with a literal stands before one with a parameter in the same place; what is in no row is
answered as not supported.
"""

from dataclasses import dataclass

from api import bills, groups, identity, sandbox, sims, stats, vpgs
from api.calls import Handler
from core.domain.sim import SimEvent


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the contract; its path is below ``/v1``. ``needs_token``: the two headers.

    ``query``: the parameters that it heeds; any other is refused. ``None``: it looks at none.
    """

    operation_id: str
    method: str
    path: str
    handler: Handler
    needs_token: bool = True
    query: tuple[str, ...] | None = ()


_E = SimEvent
_PAGE = ("limit", "last_evaluated_key")
_TAGS = ("tag_name", "tag_value", "tag_value_match_mode")
_SPAN = ("from", "to")

ROUTES = (
    Route("auth", "POST", "/auth", identity.auth, needs_token=False),
    Route("logout", "POST", "/auth/logout", identity.logout),
    Route("getOperator", "GET", "/operators/{operator_id}", identity.get_operator),
    Route(
        "updateOperatorPassword",
        "POST",
        "/operators/{operator_id}/password",
        identity.update_operator_password,
    ),
    Route(
        "listOperatorAuthKeys", "GET", "/operators/{operator_id}/auth_keys", identity.list_operator_auth_keys
    ),
    Route(
        "generateOperatorAuthKey",
        "POST",
        "/operators/{operator_id}/auth_keys",
        identity.generate_operator_auth_key,
    ),
    Route(
        "deleteOperatorAuthKey",
        "DELETE",
        "/operators/{operator_id}/auth_keys/{auth_key_id}",
        identity.delete_operator_auth_key,
    ),
    Route("listSims", "GET", "/sims", sims.list_sims, query=_PAGE),
    Route("getSim", "GET", "/sims/{sim_id}", sims.get_sim),
    Route("registerSim", "POST", "/sims/{sim_id}/register", sims.register_sim),
    Route("activateSim", "POST", "/sims/{sim_id}/activate", sims.status_change(_E.ACTIVATE)),
    Route("deactivateSim", "POST", "/sims/{sim_id}/deactivate", sims.status_change(_E.DEACTIVATE)),
    Route("setSimToStandby", "POST", "/sims/{sim_id}/set_to_standby", sims.status_change(_E.SET_TO_STANDBY)),
    Route("suspendSim", "POST", "/sims/{sim_id}/suspend", sims.status_change(_E.SUSPEND)),
    Route("terminateSim", "POST", "/sims/{sim_id}/terminate", sims.status_change(_E.TERMINATE)),
    Route(
        "enableSimTermination", "POST", "/sims/{sim_id}/enable_termination", sims.termination(enabled=True)
    ),
    Route(
        "disableSimTermination", "POST", "/sims/{sim_id}/disable_termination", sims.termination(enabled=False)
    ),
    Route("updateSimSpeedClass", "POST", "/sims/{sim_id}/update_speed_class", sims.update_sim_speed_class),
    Route("setSimImeiLock", "POST", "/sims/{sim_id}/set_imei_lock", sims.set_sim_imei_lock),
    Route("unsetSimImeiLock", "POST", "/sims/{sim_id}/unset_imei_lock", sims.unset_sim_imei_lock),
    Route("setSimGroup", "POST", "/sims/{sim_id}/set_group", sims.set_sim_group),
    Route("unsetSimGroup", "POST", "/sims/{sim_id}/unset_group", sims.unset_sim_group),
    Route("putSimTags", "PUT", "/sims/{sim_id}/tags", sims.put_sim_tags),
    Route("deleteSimTag", "DELETE", "/sims/{sim_id}/tags/{tag_name}", sims.delete_sim_tag),
    Route("deleteSimSession", "POST", "/sims/{sim_id}/delete_session", sims.delete_sim_session),
    Route(
        "listSimSessionEvents",
        "GET",
        "/sims/{sim_id}/events/sessions",
        sims.list_sim_session_events,
        query=(*_SPAN, *_PAGE),
    ),
    Route(
        "listSubscribers",
        "GET",
        "/subscribers",
        sims.list_subscribers,
        query=(*_TAGS, *sims.SUBSCRIBER_FILTERS, *_PAGE),
    ),
    Route("getSubscriber", "GET", "/subscribers/{imsi}", sims.get_subscriber),
    Route("registerSubscriber", "POST", "/subscribers/{imsi}/register", sims.register_subscriber),
    Route("listGroups", "GET", "/groups", groups.list_groups, query=(*_TAGS, *_PAGE)),
    Route("createGroup", "POST", "/groups", groups.create_group),
    Route("getGroup", "GET", "/groups/{group_id}", groups.get_group),
    Route("deleteGroup", "DELETE", "/groups/{group_id}", groups.delete_group),
    Route(
        "listSubscribersInGroup",
        "GET",
        "/groups/{group_id}/subscribers",
        groups.list_subscribers_in_group,
        query=_PAGE,
    ),
    Route("putGroupTags", "PUT", "/groups/{group_id}/tags", groups.put_group_tags),
    Route("deleteGroupTag", "DELETE", "/groups/{group_id}/tags/{tag_name}", groups.delete_group_tag),
    Route(
        "putConfigurationParameters",
        "PUT",
        "/groups/{group_id}/configuration/{namespace}",
        groups.put_configuration_parameters,
    ),
    Route(
        "deleteConfigurationNamespace",
        "DELETE",
        "/groups/{group_id}/configuration/{namespace}",
        groups.delete_configuration_namespace,
    ),
    Route(
        "deleteConfigurationParameter",
        "DELETE",
        "/groups/{group_id}/configuration/{namespace}/{name}",
        groups.delete_configuration_parameter,
    ),
    Route(
        "getAirStatsOfSim",
        "GET",
        "/stats/air/sims/{sim_id}",
        stats.get_air_stats_of_sim,
        query=("period", *_SPAN),
    ),
    Route(
        "getAirStats", "GET", "/stats/air/subscribers/{imsi}", stats.get_air_stats, query=("period", *_SPAN)
    ),
    Route(
        "listVirtualPrivateGatewayIpAddressMapEntries",
        "GET",
        "/virtual_private_gateways/{vpg_id}/ip_address_map",
        vpgs.list_ip_address_map_entries,
        query=_PAGE,
    ),
    Route(
        "putVirtualPrivateGatewayIpAddressMapEntry",
        "POST",
        "/virtual_private_gateways/{vpg_id}/ip_address_map",
        vpgs.put_ip_address_map_entry,
    ),
    Route(
        "deleteVirtualPrivateGatewayIpAddressMapEntry",
        "DELETE",
        "/virtual_private_gateways/{vpg_id}/ip_address_map/{key}",
        vpgs.delete_ip_address_map_entry,
    ),
    Route("getBillingHistory", "GET", "/bills", bills.get_billing_history),
    Route("getLatestBilling", "GET", "/bills/latest", bills.get_latest_billing),
    Route(
        "exportLatestBilling",
        "POST",
        "/bills/latest/export",
        bills.export_latest_billing,
        query=("export_mode",),
    ),
    Route("getBilling", "GET", "/bills/{yyyyMM}", bills.get_billing),
    Route("getBillingPerDay", "GET", "/bills/{yyyyMM}/daily", bills.get_billing_per_day),
    Route("exportBilling", "POST", "/bills/{yyyyMM}/export", bills.export_billing, query=("export_mode",)),
    Route("getExportedFile", "GET", "/files/exported/{exported_file_id}", bills.get_exported_file),
)
"""The contract's operations."""

DOWNLOAD = Route("download", "GET", "/downloads/{link}", bills.download, needs_token=False)
"""Ours: where the links of exports lead."""

SANDBOX_ROUTES = (
    Route("sandboxInitializeOperator", "POST", "/sandbox/init", sandbox.init, needs_token=False),
    Route(
        "sandboxGetSignupToken",
        "POST",
        "/sandbox/operators/token/{email}",
        sandbox.not_supported,
        needs_token=False,
    ),
    Route("sandboxDeleteOperator", "DELETE", "/sandbox/operators/{operator_id}", sandbox.delete_operator),
    Route("sandboxCreateSubscriber", "POST", "/sandbox/subscribers/create", sandbox.create_subscriber),
    Route("sandboxInsertAirStats", "POST", "/sandbox/stats/air/subscribers/{imsi}", sandbox.insert_air_stats),
    Route("sandboxInsertBeamStats", "POST", "/sandbox/stats/beam/subscribers/{imsi}", sandbox.not_supported),
    Route("sandboxCreateCoupon", "POST", "/sandbox/coupons/create", sandbox.not_supported),
    Route("sandboxShipOrder", "POST", "/sandbox/orders/ship", sandbox.not_supported),
)
"""The sandbox contract's operations."""

NOT_SUPPORTED = Route("notSupported", "*", "/{rest:.*}", sandbox.not_supported, needs_token=False, query=None)
"""Everything else below ``/v1``."""
