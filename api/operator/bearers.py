"""Dedicated bearers as an operator writes and reads them.

Rules: an error names the field and what it must be; a bearer is shown under the field names of a request.
"""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from core.domain.flow import DedicatedBearer, PacketFilter, Ports
from core.validation import problem_of

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "esp": 50, "icmpv6": 58, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_PORT_MAX = 65_535
_CANNOT_PREEMPT, _NOT_PREEMPTABLE = 0x40, 0x01
"""Of the octet of TS 29.274 §8.15."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FilterBody(_Body):
    """A packet filter. ``remote`` is a network, ports are ``5060`` or ``5060-5070``; what is left out may be
    anything. Filters are asked in ascending order of ``precedence``; without one it is the next that is free.
    """

    direction: Literal["both", "up", "down"] = "both"
    remote: str = ""
    protocol: int | None = None
    local_ports: Ports | None = None
    remote_ports: Ports | None = None
    precedence: Annotated[int, Field(ge=0, le=255)] | None = None

    @field_validator("remote")
    @classmethod
    def _check_remote(cls, remote: str) -> str:
        try:
            return str(ip_network(remote)) if remote else ""
        except ValueError as error:
            raise ValueError(f"{error}; expected a network, for example 10.1.0.0/16") from None

    @field_validator("protocol", mode="before")
    @classmethod
    def _read_protocol(cls, protocol: object) -> object:
        number = PROTOCOLS.get(str(protocol).lower(), protocol)
        if number is not None and not (str(number).isdecimal() and int(str(number)) <= 255):
            raise ValueError(
                f"{protocol!r}: unknown protocol; write {', '.join(PROTOCOLS)} or a number up to 255"
            )
        return number

    @field_validator("local_ports", "remote_ports", mode="before")
    @classmethod
    def _read_ports(cls, ports: object) -> object:
        if ports is None:
            return None
        first, _, last = str(ports).partition("-")
        found = [int(each) if each.isdecimal() else _PORT_MAX + 1 for each in (first, last or first)]
        if not found[0] <= found[1] <= _PORT_MAX:
            raise ValueError(f"{ports!r} are not ports; expected 5060 or 5060-5070, at most {_PORT_MAX}")
        return tuple(found)


class AddBearer(_Body):
    """A dedicated bearer to make. ``priority`` is the ARP's: 1 is served first."""

    session_id: str
    qci: Annotated[int, Field(ge=1, le=254)]
    priority: Annotated[int, Field(ge=1, le=15)] = 15
    may_preempt: bool = False
    preemptable: bool = True
    filters: Annotated[tuple[FilterBody, ...], Field(min_length=1, max_length=15)]

    @property
    def arp(self) -> int:
        """Its octet."""
        return _arp(self.priority, self.may_preempt, self.preemptable)


class ChangeBearer(_Body):
    """Changes of a dedicated bearer; a field that is left out stays as it is."""

    session_id: str
    ebi: Annotated[int, Field(ge=5, le=15)]
    qci: Annotated[int, Field(ge=1, le=254)] | None = None
    priority: Annotated[int, Field(ge=1, le=15)] | None = None
    may_preempt: bool | None = None
    preemptable: bool | None = None
    filters: Annotated[tuple[FilterBody, ...], Field(min_length=1, max_length=15)] | None = None

    def arp_of(self, now: int) -> int:
        """The octet that this one becomes."""
        priority = now >> 2 & 15 if self.priority is None else self.priority
        may_preempt = not now & _CANNOT_PREEMPT if self.may_preempt is None else self.may_preempt
        preemptable = not now & _NOT_PREEMPTABLE if self.preemptable is None else self.preemptable
        return _arp(priority, may_preempt, preemptable)


class RemoveBearer(_Body):
    """A dedicated bearer to end."""

    session_id: str
    ebi: Annotated[int, Field(ge=5, le=15)]


def read(kind: type[AddBearer | ChangeBearer | RemoveBearer], body: object) -> Any:
    """A request's body; raises ``ValueError`` that names each field that is wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise ValueError("; ".join(_problem(kind, item) for item in error.errors())) from None


def packet_filters(wanted: Sequence[FilterBody], others: Sequence[DedicatedBearer]) -> list[PacketFilter]:
    """In the domain's words; ``others`` are the session's other bearers, whose precedences are taken."""
    taken = {each.precedence for bearer in others for each in bearer.filters}
    taken |= {each.precedence for each in wanted if each.precedence is not None}
    free = iter([number for number in range(256) if number not in taken])
    found = []
    for identifier, each in enumerate(wanted):
        if not (each.remote or each.protocol is not None or each.local_ports or each.remote_ports):
            raise ValueError(
                f"filters.{identifier}: matches all packets; set remote, protocol, local_ports or"
                f" remote_ports"
            )
        precedence = next(free, None) if each.precedence is None else each.precedence
        if precedence is None:
            raise ValueError(
                f"filters.{identifier}.precedence: all 256 values are in use; remove a bearer first"
            )
        found.append(
            PacketFilter(
                identifier=identifier,
                precedence=precedence,
                is_uplink=each.direction != "down",
                is_downlink=each.direction != "up",
                remote=each.remote,
                protocol=each.protocol,
                local_ports=each.local_ports,
                remote_ports=each.remote_ports,
            )
        )
    return found


def row(session_id: str, bearer: DedicatedBearer) -> dict[str, Any]:
    """A bearer as it is shown."""
    return {
        "session_id": session_id,
        "ebi": bearer.ebi,
        "qci": bearer.qci,
        "priority": bearer.arp >> 2 & 15,
        "may_preempt": not bearer.arp & _CANNOT_PREEMPT,
        "preemptable": not bearer.arp & _NOT_PREEMPTABLE,
        "filters": [_filter_row(each) for each in bearer.filters],
        "teid_user": f"0x{bearer.local_teid_user:08x}",
        "peer": bearer.peer_user_address,
        "charging_id": bearer.charging_id,
    }


def _filter_row(each: PacketFilter) -> dict[str, Any]:
    direction = "both" if each.is_uplink and each.is_downlink else "up" if each.is_uplink else "down"
    shown: dict[str, Any] = {"precedence": each.precedence, "direction": direction}
    if each.remote:
        shown["remote"] = each.remote
    if each.protocol is not None:
        shown["protocol"] = _PROTOCOL_NAMES.get(each.protocol, each.protocol)
    for name, ports in (("local_ports", each.local_ports), ("remote_ports", each.remote_ports)):
        if ports is not None:
            shown[name] = str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"
    return shown


def _arp(priority: int, may_preempt: bool, preemptable: bool) -> int:
    return (0 if may_preempt else _CANNOT_PREEMPT) | priority << 2 | (0 if preemptable else _NOT_PREEMPTABLE)


def _problem(kind: type[BaseModel], item: Any) -> str:  # pydantic_core.ErrorDetails differs by version
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = FilterBody if "filters" in item["loc"] else kind
        return f"{name}: unknown; known here: {', '.join(known.model_fields)}"
    return f"{name}: {problem_of(item)}"
