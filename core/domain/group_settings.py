"""What a group's configuration may say: one table of what has an effect.

Rule: a value without an effect is refused when it is set. To switch off what is not offered has the effect
that it asks for, and is accepted: clients send whole forms, most of whose fields do so.
"""

from collections.abc import Callable, Mapping

NAMESPACES = frozenset(
    {"SoracomAir", "SoracomBeam", "SoracomEndorse", "SoracomFlux", "SoracomFunk", "SoracomFunnel"}
    | {"SoracomHarvest", "SoracomHarvestFiles", "SoracomKrypton", "SoracomOrbit", "UnifiedEndpoint"}
)
"""The contract's."""
AIR = "SoracomAir"
"""The one with settings that have an effect."""

Problem = Callable[[object], str]
"""What is wrong with a value; nothing when it is right."""


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
    """Whether a value only says that something is not to be: nothing, or ``enabled`` as false."""
    if isinstance(value, Mapping):
        return value.get("enabled") is False or all(map(is_off, value.values()))
    return not value


def problem(namespace: str, values: Mapping[str, object], merged: Mapping[str, object]) -> str:
    """What is wrong with ``values`` that are to be set, which makes the namespace ``merged``; or nothing."""
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
