"""The contract's shapes of our nouns.

Rules: what is not known is left out, for the contract has no nulls; SIMs, sessions and groups count time in
milliseconds, statistics and keys in seconds; operators and the beginning of an event's session are ISO 8601.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from core.domain.account import AuthKey, Group, Operator
from core.domain.session import Cell, Location, Session, SessionEvent
from core.domain.sim import Sim, SimStatus, Subscriber
from core.domain.usage import Volume
from core.ports.billing import Bill, DailyAmount
from core.services.metering.stats import Line, Period

_MINOR_UNITS = {"JPY": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANO = 1_000_000_000
_CAPABILITIES = {"data": True, "sms": False}
_DATE_FORMATS = {Period.MINUTES: "%Y%m%d%H%M", Period.DAY: "%Y%m%d", Period.MONTH: "%Y%m"}


def _known(view: dict[str, Any]) -> dict[str, Any]:
    """Without what is not known."""
    return {name: value for name, value in view.items() if value is not None}


def milliseconds(at: datetime) -> int:
    """Since 1970."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def operator_view(operator: Operator) -> dict[str, Any]:
    """GetOperatorResponse."""
    return {
        "operatorId": operator.operator_id,
        "rootOperatorId": operator.operator_id,
        "email": operator.email,
        "description": operator.description,
        "createDate": operator.created.isoformat(),
        "updateDate": operator.modified.isoformat(),
    }


def auth_key_view(key: AuthKey) -> dict[str, Any]:
    """AuthKeyResponse."""
    return {
        "authKeyId": key.auth_key_id,
        "createDateTime": int(key.created.timestamp()),
    }


def sim_view(sim: Sim, sessions: Sequence[Session], previous: SessionEvent | None = None) -> dict[str, Any]:
    """Sim; of its sessions the newest is shown. ``previous``: the end of the last one that ended."""
    return _known(
        {
            "simId": sim.sim_id,
            "operatorId": sim.operator_id,
            "type": sim.sim_type,
            "status": sim.status.value,
            "moduleType": sim.module_type,
            "serialNumber": sim.serial_number,
            "speedClass": sim.speed_class,
            "groupId": sim.group_id or None,
            "tags": sim.tags,
            "terminationEnabled": sim.termination_enabled,
            "imeiLock": {"imei": sim.imei_lock} if sim.imei_lock else None,
            "createdTime": milliseconds(sim.created),
            "lastModifiedTime": milliseconds(sim.modified),
            "activeProfileId": sim.sim_id,
            "profiles": {sim.sim_id: _profile_view(sim)},
            "sessionStatus": session_status_view(sim, sessions),
            "previousSession": _previous_view(sim, previous) if previous else None,
            "capabilities": _CAPABILITIES,
        }
    )


def _profile_view(sim: Sim) -> dict[str, Any]:
    return {
        "iccid": sim.sim_id,
        "primaryImsi": sim.imsi,
        "otaSupported": False,
        "subscribers": {subscriber.imsi: _identity_view(sim, subscriber) for subscriber in sim.subscribers},
    }


def _identity_view(sim: Sim, subscriber: Subscriber) -> dict[str, Any]:
    """SimplifiedSubscriber, whose status knows three of the SIM's."""
    once = {SimStatus.READY: "ready", SimStatus.TERMINATED: "terminated", SimStatus.INSTOCK: "shipped"}
    return _known(
        {
            "imsi": subscriber.imsi,
            "msisdn": subscriber.msisdn or None,
            "subscription": subscriber.subscription,
            "bundles": list(subscriber.bundles) or None,
            "status": once.get(sim.status, "active"),
            "capabilities": _CAPABILITIES,
        }
    )


def ip_address_map_entry_view(sim: Sim) -> dict[str, Any]:
    """IpAddressMapEntry."""
    return {
        "key": sim.imsi,
        "hostId": sim.imsi,
        "ipAddress": str(sim.static_address),
        "type": "static",
        "lastUpdatedAt": milliseconds(sim.modified),
    }


def session_status_view(sim: Sim, sessions: Sequence[Session]) -> dict[str, Any]:
    """SessionStatus."""
    if not sessions:
        return {"online": False, "lastUpdatedAt": milliseconds(sim.modified)}
    session = sessions[-1]
    return _known(
        {
            "online": True,
            "sessionId": session.session_id,
            "imsi": session.imsi,
            "imei": session.imei or None,
            "ueIpAddress": session.shown_address,
            "dnsServers": list(session.dns),
            "subscription": _subscription_of(sim, session.imsi),
            "cell": cell_view(session.location),
            "lastUpdatedAt": milliseconds(session.opened),
        }
    )


def _previous_view(sim: Sim, ended: SessionEvent) -> dict[str, Any]:
    """PreviousSessionStatus."""
    return _known(
        {
            "sessionId": ended.session_id,
            "imsi": ended.imsi,
            "imei": ended.imei or None,
            "ueIpAddress": ended.ue_address or None,
            "dnsServers": list(ended.dns) or None,
            "subscription": _subscription_of(sim, ended.imsi),
            "cell": cell_view(ended.location),
            "createdTime": milliseconds(ended.opened) if ended.opened else None,
            "deletedTime": milliseconds(ended.at),
        }
    )


def _subscription_of(sim: Sim, imsi: str) -> str | None:
    return next((s.subscription for s in sim.subscribers if s.imsi == imsi), None)


_RADIO_TYPES = {
    **dict.fromkeys(("3G", "HSPA"), "3G"),
    **{rat: rat for rat in ("GSM", "LTE", "LTE-M", "NB-IoT")},
}


def cell_view(location: Location) -> dict[str, Any] | None:
    """Cell; without one that the network named, the serving network at least."""
    cell = location.cell or _cell_of(location)
    if cell is None:
        return None
    return _known(
        {
            "mcc": cell.mcc,
            "mnc": cell.mnc,
            "lac": cell.lac,
            "ci": cell.ci,
            "sac": cell.sac,
            "rac": cell.rac,
            "tac": cell.tac,
            "eci": cell.eci,
            "radioType": _RADIO_TYPES.get(location.rat),
        }
    )


def _cell_of(location: Location) -> Cell | None:
    """From 3GPP-User-Location-Info of a NAS (TS 29.061 §16.4.7.2: CGI, SAI or RAI)."""
    if not location.plmn:
        return None
    mcc, mnc, raw = int(location.plmn[:3]), int(location.plmn[3:]), bytes.fromhex(location.user_location)
    if len(raw) < 8 or raw[0] > 2:
        return Cell(mcc, mnc)
    lac, within = int.from_bytes(raw[4:6], "big"), int.from_bytes(raw[6:8], "big")
    if raw[0] == 2:
        return Cell(mcc, mnc, lac=lac, rac=raw[6])
    return Cell(mcc, mnc, lac=lac, sac=within) if raw[0] else Cell(mcc, mnc, lac=lac, ci=within)


def session_event_view(sim: Sim, event: SessionEvent) -> dict[str, Any]:
    """SessionEvent. Not in the contract are ``Rejected``, an attach that was refused; ``primaryImsi``, which
    SORACOM answers; and ``cause``, why a session ended or was refused.
    """
    opened = event.opened.isoformat(timespec="milliseconds") if event.opened else ""
    return _known(
        {
            "event": event.kind.value,
            "time": milliseconds(event.at),
            "createdTime": opened.replace("+00:00", "Z") or None,
            "operatorId": event.operator_id,
            "simId": event.sim_id,
            "imsi": event.imsi,
            "primaryImsi": sim.imsi,
            "imei": event.imei or None,
            "sessionId": event.session_id or None,
            "apn": event.apn or None,
            "ueIpAddress": event.ue_address or None,
            **{f"dns{number}": address for number, address in enumerate(event.dns[:2])},
            "subscription": _subscription_of(sim, event.imsi),
            "cell": cell_view(event.location),
            "cause": event.cause or None,
        }
    )


def subscriber_view(
    sim: Sim, sessions: Sequence[Session], previous: SessionEvent | None = None
) -> dict[str, Any]:
    """Subscriber, the older view of a SIM by its primary IMSI, with its doubled fields."""
    created, modified = milliseconds(sim.created), milliseconds(sim.modified)
    subscriber = sim.subscribers[0]
    status = session_status_view(sim, sessions)
    return _known(
        {
            "imsi": sim.imsi,
            "simId": sim.sim_id,
            "iccid": sim.sim_id,
            "msisdn": subscriber.msisdn or None,
            "operatorId": sim.operator_id,
            "apn": sim.apn,
            "type": sim.speed_class,
            "speedClass": sim.speed_class,
            "groupId": sim.group_id or None,
            "moduleType": sim.module_type,
            "serialNumber": sim.serial_number,
            "subscription": subscriber.subscription,
            "bundles": list(subscriber.bundles) or None,
            "plan": 0,
            "status": sim.status.value,
            "tags": sim.tags,
            "terminationEnabled": sim.termination_enabled,
            "imeiLock": {"imei": sim.imei_lock} if sim.imei_lock else None,
            "ipAddress": status.get("ueIpAddress"),
            "sessionStatus": status,
            "previousSession": _previous_view(sim, previous) if previous else None,
            "createdAt": created,
            "createdTime": created,
            "lastModifiedAt": modified,
            "lastModifiedTime": modified,
        }
    )


def in_stock_view(sim: Sim, secret: str) -> dict[str, Any]:
    """sandboxCreateSubscriberResponse; the serial number is the SIM's id, as printed on a card."""
    return _known(
        {
            "imsi": sim.imsi,
            "registrationSecret": secret,
            "msisdn": sim.subscribers[0].msisdn or None,
            "operatorId": sim.operator_id or None,
            "apn": sim.apn,
            "speedClass": sim.speed_class,
            "subscription": sim.subscribers[0].subscription,
            "serialNumber": sim.serial_number,
            "status": sim.status.value,
            "tags": sim.tags,
            "createdAt": milliseconds(sim.created),
            "lastModifiedAt": milliseconds(sim.modified),
        }
    )


def group_view(group: Group) -> dict[str, Any]:
    """Group."""
    return {
        "groupId": group.group_id,
        "operatorId": group.operator_id,
        "configuration": group.configuration,
        "tags": group.tags,
        "createdTime": milliseconds(group.created),
        "lastModifiedTime": milliseconds(group.modified),
    }


def traffic_view(volume: Volume) -> dict[str, int]:
    """DataTrafficStats; its ``PacketSize`` is a number of packets."""
    return {
        "uploadByteSizeTotal": volume.up_bytes,
        "downloadByteSizeTotal": volume.down_bytes,
        "uploadPacketSizeTotal": volume.up_packets,
        "downloadPacketSizeTotal": volume.down_packets,
    }


def air_stats_view(line: Line, period: Period) -> dict[str, Any]:
    """AirStatsResponse."""
    by_class: Mapping[str, Volume] = line.by_class
    return {
        "date": line.begins.strftime(_DATE_FORMATS[period]),
        "unixtime": int(line.begins.timestamp()),
        "dataTrafficStatsMap": {name: traffic_view(volume) for name, volume in sorted(by_class.items())},
    }


def bill_view(bill: Bill) -> dict[str, Any]:
    """MonthlyBill."""
    return {
        "yearMonth": f"{bill.month:06d}",
        "state": "closed" if bill.closed else "temporary",
        "amount": amount_of(bill),
        "currency": bill.amount.currency,
        "appliedCouponAmount": 0,
    }


def amount_of(bill: Bill) -> float:
    """In whole units of its currency (ISO 4217): the contract's number."""
    return bill.amount.minor_units / _MINOR_UNITS.get(bill.amount.currency, 100)


def latest_bill_view(bill: Bill) -> dict[str, Any]:
    """GetLatestBill."""
    return {
        "amount": amount_of(bill),
        "currency": bill.amount.currency,
        "lastEvaluatedTime": bill.evaluated.strftime("%Y%m%d%H%M%S"),
    }


def daily_bill_view(daily: DailyAmount) -> dict[str, Any]:
    """DailyBill."""
    return {"date": f"{daily.day:08d}", "amount": daily.amount_nano / _NANO, "currency": daily.currency}
