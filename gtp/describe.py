"""GTP-C messages as people read them, of both versions: for a trace, never for a decision.

Rules: nothing here raises, whatever the bytes are; what has no name is shown in hex and cut short; what a
device showed as a password is not shown.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from core.domain.session import PdnType
from core.errors import RemoteProtocolError
from gtp import values
from gtp.v1 import cause as cause1
from gtp.v1 import header as header1
from gtp.v1 import ie as ie1
from gtp.v1 import message as message1
from gtp.v2 import cause as cause2
from gtp.v2 import header as header2
from gtp.v2 import ie as ie2
from gtp.v2 import message as message2

SHOWN_OCTETS_MAX = 32
"""Of a value that is shown in hex."""
UNREADABLE = "unreadable"
_REFUSALS_FROM = {1: 192, 2: 64}
"""The least cause of a refusal, by version."""
_INTERFACES = {4: "S5/S8 SGW GTP-U", 5: "S5/S8 PGW GTP-U", 6: "S5/S8 SGW GTP-C", 7: "S5/S8 PGW GTP-C"}
_PDN_TYPES = {1: "IPv4", 2: "IPv6", 3: "IPv4v6", 0x21: "IPv4", 0x57: "IPv6", 0x8D: "IPv4v6"}


@dataclass(frozen=True, slots=True)
class Described:
    """One message. ``control_teids``: those that its sender wants to be addressed by from now on."""

    version: int
    message: str
    message_type: int = 0
    sequence: int | None = None
    teid: int | None = None
    cause: str = ""
    elements: Mapping[str, str] = field(default_factory=dict)
    imsi: str = ""
    control_teids: tuple[int, ...] = ()

    @property
    def is_refusal(self) -> bool:
        """Whether it is an answer that does not accept (TS 29.060 §7.7.1, TS 29.274 table 8.4-1)."""
        number = self.cause.partition(" ")[0]
        return number.isdecimal() and int(number) >= _REFUSALS_FROM.get(self.version, math.inf)


def describe(data: bytes) -> Described:
    """What a datagram says."""
    version = data[0] >> 5 if data else 0
    try:
        if version == 1:
            return _describe_v1(data)
        if version == header2.VERSION:
            return _describe_v2(data)
    except (RemoteProtocolError, ValueError, IndexError):
        pass
    return Described(version, UNREADABLE)


# -- version 1 ------------------------------------------------------------------------------------------


def _describe_v1(data: bytes) -> Described:
    header = header1.decode_header(data)
    elements: dict[int, list[bytes]] = {}
    shown: dict[str, str] = {}
    try:
        elements = ie1.present(ie1.decode_elements(header.payload))
    except RemoteProtocolError as error:
        shown["error"] = str(error)
    for type_, found in elements.items():
        name, show = _ELEMENTS_V1.get(type_, (f"element {type_}", _hex))
        shown[name] = ", ".join(_shown(show, value) for value in found)
    return Described(
        version=1,
        message=_message_name(message1.MessageType, header.message_type),
        message_type=header.message_type,
        sequence=header.sequence,
        teid=header.teid,
        cause=shown.pop("cause", ""),
        elements=shown,
        imsi=shown.get("imsi", ""),
        control_teids=tuple(int.from_bytes(value, "big") for value in elements.get(ie1.TEID_CONTROL, ())),
    )


def _end_user_address(value: bytes) -> str:
    address = value[2:]
    parts = [_PDN_TYPES.get(value[1], f"type {value[1]}")]
    if len(address) in (4, 20):
        parts.append(str(IPv4Address(address[:4])))
    if len(address) in (16, 20):
        parts.append(str(IPv6Address(address[-16:])))
    return " ".join(parts)


# -- version 2 ------------------------------------------------------------------------------------------


def _describe_v2(data: bytes) -> Described:
    header = header2.decode_header(data)
    shown: dict[str, str] = {}
    elements = _elements_v2(header.payload, shown, "")
    control = [
        int.from_bytes(value[1:5], "big")
        for (type_, _), value in elements.items()
        if type_ == ie2.F_TEID and len(value) >= 5
    ]
    return Described(
        version=2,
        message=_message_name(message2.MessageType, header.message_type),
        message_type=header.message_type,
        sequence=header.sequence,
        teid=header.teid,
        cause=shown.pop("cause", ""),
        elements=shown,
        imsi=shown.get("imsi", ""),
        control_teids=tuple(control),
    )


def _elements_v2(payload: bytes, shown: dict[str, str], within: str) -> ie2.Elements:
    """Into ``shown``, one level of groups deep."""
    try:
        elements = ie2.decode_elements(payload)
    except RemoteProtocolError as error:
        shown[f"{within}error"] = str(error)
        return {}
    for (type_, instance), value in elements.items():
        name, show = _ELEMENTS_V2.get(type_, (f"element {type_}", _hex))
        name = f"{within}{name}" + (f" {instance}" if instance else "")
        if type_ == ie2.BEARER_CONTEXT and not within:
            _elements_v2(value, shown, f"{name}: ")
        else:
            shown[name] = _shown(show, value)
    return elements


def _f_teid(value: bytes) -> str:
    teid, address = int.from_bytes(value[1:5], "big"), value[5:9]
    interface = _INTERFACES.get(value[0] & 0x3F, f"interface {value[0] & 0x3F}")
    shown = str(IPv4Address(address)) if value[0] & 0x80 and len(address) == 4 else _hex(value[5:])
    return f"{interface} 0x{teid:08x} {shown}"


def _paa(value: bytes) -> str:
    kind = value[0] & 7
    pdn_type = ie2.PDN_TYPES.get(kind)
    parts = [_PDN_TYPES.get(kind, f"type {kind}")]
    if pdn_type in (PdnType.IPV6, PdnType.IPV4V6) and len(value) >= 18:
        parts.append(f"{IPv6Address(value[2:18])}/{value[1]}")
    ipv4 = value[18:22] if pdn_type is PdnType.IPV4V6 else value[1:5]
    if pdn_type is not PdnType.IPV6 and len(ipv4) == 4:
        parts.append(str(IPv4Address(ipv4)))
    return " ".join(parts)


def _ambr(value: bytes) -> str:
    return f"{int.from_bytes(value[:4], 'big')}/{int.from_bytes(value[4:8], 'big')} kbit/s up/down"


# -- what both have -------------------------------------------------------------------------------------


def _message_name(types: Callable[[int], object], number: int) -> str:
    try:
        return str(getattr(types(number), "name", "")).lower().replace("_", " ")
    except ValueError:
        return f"message {number}"


def _shown(show: Callable[[bytes], str], value: bytes) -> str:
    try:
        return show(value)
    except (RemoteProtocolError, ValueError, IndexError):
        return f"{UNREADABLE}: {_hex(value)}"


def _hex(value: bytes) -> str:
    return value[:SHOWN_OCTETS_MAX].hex() + ("…" if len(value) > SHOWN_OCTETS_MAX else "")


def _teid(value: bytes) -> str:
    return f"0x{int.from_bytes(value, 'big'):08x}"


def _number(value: bytes) -> str:
    return str(int.from_bytes(value, "big"))


def _low_nibble(value: bytes) -> str:
    return str(value[0] & 15)


def _pdn_type(value: bytes) -> str:
    return _PDN_TYPES.get(value[0] & 7, str(value[0]))


def _address(value: bytes) -> str:
    return str(IPv4Address(value) if len(value) == 4 else IPv6Address(value))


def _options(value: bytes) -> str:
    """Protocols and containers by number alone: among them are passwords (TS 24.008 §10.5.6.3)."""
    at, found = 1, []
    while at + 3 <= len(value):
        found.append(value[at : at + 2].hex())
        at += 3 + value[at + 2]
    return " ".join(found) or "none"


def _cause(causes: Callable[[int], object]) -> Callable[[bytes], str]:
    def show(value: bytes) -> str:
        try:
            name = str(getattr(causes(value[0]), "name", "")).lower().replace("_", " ")
        except ValueError:
            return str(value[0])
        return f"{value[0]} {name}"

    return show


_ELEMENTS_V1: Mapping[int, tuple[str, Callable[[bytes], str]]] = {
    ie1.CAUSE: ("cause", _cause(cause1.Cause)),
    ie1.IMSI: ("imsi", values.decode_imsi),
    3: ("rai", _hex),
    ie1.RECOVERY: ("recovery", _number),
    ie1.SELECTION_MODE: ("selection mode", _low_nibble),
    ie1.TEID_DATA_I: ("teid data", _teid),
    ie1.TEID_CONTROL: ("teid control", _teid),
    ie1.TEARDOWN_IND: ("teardown", _low_nibble),
    ie1.NSAPI: ("nsapi", _low_nibble),
    26: ("charging characteristics", _hex),
    ie1.CHARGING_ID: ("charging id", _number),
    ie1.END_USER_ADDRESS: ("end user address", _end_user_address),
    ie1.ACCESS_POINT_NAME: ("apn", values.decode_apn),
    ie1.PROTOCOL_CONFIGURATION_OPTIONS: ("pco", _options),
    ie1.GSN_ADDRESS: ("gsn address", _address),
    ie1.MSISDN: ("msisdn", lambda value: values.decode_tbcd(value[1:])),
    ie1.QUALITY_OF_SERVICE: ("qos", _hex),
    ie1.RAT_TYPE: ("rat type", _number),
    ie1.USER_LOCATION: ("user location", _hex),
    ie1.MS_TIME_ZONE: ("time zone", _hex),
    ie1.IMEI: ("imei", values.decode_tbcd),
    198: ("apn-ambr", _ambr),
    ie1.BACK_OFF_TIME: ("back-off time", _hex),
    ie1.SIGNALLING_PRIORITY: ("signalling priority", _number),
}
_ELEMENTS_V2: Mapping[int, tuple[str, Callable[[bytes], str]]] = {
    ie2.IMSI: ("imsi", values.decode_imsi),
    ie2.CAUSE: ("cause", _cause(cause2.Cause)),
    ie2.RECOVERY: ("recovery", _number),
    ie2.APN: ("apn", values.decode_apn),
    ie2.AMBR: ("ambr", _ambr),
    ie2.EBI: ("ebi", _low_nibble),
    ie2.MEI: ("mei", values.decode_tbcd),
    ie2.MSISDN: ("msisdn", values.decode_tbcd),
    ie2.INDICATION: ("indication", _hex),
    ie2.PCO: ("pco", _options),
    ie2.PAA: ("paa", _paa),
    ie2.BEARER_QOS: ("bearer qos", _hex),
    ie2.RAT_TYPE: ("rat type", _number),
    ie2.SERVING_NETWORK: ("serving network", values.decode_plmn),
    84: ("tft", _hex),
    ie2.ULI: ("user location", _hex),
    ie2.F_TEID: ("f-teid", _f_teid),
    ie2.BEARER_CONTEXT: ("bearer context", _hex),
    ie2.CHARGING_ID: ("charging id", _number),
    95: ("charging characteristics", _hex),
    ie2.PDN_TYPE: ("pdn type", _pdn_type),
    114: ("time zone", _hex),
    ie2.APN_RESTRICTION: ("apn restriction", _number),
    ie2.SELECTION_MODE: ("selection mode", _low_nibble),
    ie2.EPC_TIMER: ("back-off time", _hex),
    ie2.SIGNALLING_PRIORITY: ("signalling priority", _number),
    163: ("apco", _options),
    ie2.EPCO: ("epco", _options),
}
