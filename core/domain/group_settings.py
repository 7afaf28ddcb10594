"""The settings of a group that have an effect: one table.

Rule: a value without an effect is refused when it is set. A value that switches off what is not offered is
accepted: clients send whole forms, and most of their fields do that.
"""

from collections.abc import Callable, Mapping

NAMESPACES = frozenset(
    {"SoracomAir", "SoracomBeam", "SoracomEndorse", "SoracomFlux", "SoracomFunk", "SoracomFunnel"}
    | {"SoracomHarvest", "SoracomHarvestFiles", "SoracomKrypton", "SoracomOrbit", "UnifiedEndpoint"}
)
"""The namespaces of SORACOM's contract."""
AIR = "SoracomAir"
"""The namespace whose settings have an effect."""

Problem = Callable[[object], str]
"""The problem with a value; empty when it is valid."""


def _wanted(kind: type, name: str) -> Problem:
    return lambda value: "" if isinstance(value, kind) else f"must be {name}"


def _authentication(value: object) -> str:
    if isinstance(value, Mapping) and value.keys() == {"username", "password"}:
        return (
            ""
            if all(isinstance(part, str) for part in value.values())
            else "username and password must both be strings"
        )
    return "must have username and password, and nothing else"


def _metadata(value: object) -> str:
    if not isinstance(value, Mapping) or not isinstance(value.get("enabled"), bool):
        return "must have enabled, true or false"
    if value.get("readonly") is False:
        return "readonly must be true: devices cannot write metadata"
    unmet = sorted(name for name in value.keys() - {"enabled", "readonly"} if not is_off(value[name]))
    return f"{', '.join(unmet)}: not supported; enabled and readonly are" if unmet else ""


SUPPORTED: Mapping[str, Problem] = {
    "authentication": _authentication,
    "authenticationRequired": _wanted(bool, "true or false"),
    "gatePrivacySeparatorEnabled": _wanted(bool, "true or false"),
    "metadata": _metadata,
    "password": _wanted(str, "a text"),
    "userdata": _wanted(str, "a text"),
    "username": _wanted(str, "a text"),
}
"""Keys of ``SoracomAir``."""


def is_off(value: object) -> bool:
    """Whether a value only switches something off: empty, or ``enabled`` is false."""
    if isinstance(value, Mapping):
        return value.get("enabled") is False or all(map(is_off, value.values()))
    return not value


def problem(namespace: str, values: Mapping[str, object], merged: Mapping[str, object]) -> str:
    """The problem with ``values`` to be set, with which the namespace becomes ``merged``; or empty."""
    for key, value in values.items():
        check = SUPPORTED.get(key) if namespace == AIR else None
        if check is not None:
            wrong = "" if value is None or (isinstance(value, Mapping) and is_off(value)) else check(value)
        elif is_off(value) or (namespace != AIR and merged.get("enabled") is False):
            wrong = ""
        elif namespace == AIR:
            wrong = f"not supported; {', '.join(SUPPORTED)} are"
        else:
            wrong = "not supported; this namespace can only be switched off (enabled: false)"
        if wrong:
            return f"{namespace}.{key}: {wrong}"
    if namespace == AIR and merged.get("authenticationRequired"):
        missing = [key for key in ("username", "password") if not merged.get(key)]
        if missing:
            return f"{AIR}.authenticationRequired: {' and '.join(missing)} must be set with it"
    return ""
