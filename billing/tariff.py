"""What usage costs. Rules: integers in nano-units of the currency; immutable; a version names it for ever."""

from collections.abc import Mapping
from dataclasses import dataclass

NANO = 1_000_000_000
NANO_PER_MINOR_UNIT: Mapping[str, int] = {"USD": NANO // 100, "EUR": NANO // 100, "JPY": NANO}
"""Nano-units in a currency's minor unit (ISO 4217: cents, cents, whole yen)."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """One price for each octet.

    ``unit_bytes`` is what a SIM's day is rounded up to; ``overhead_bytes`` is added for each packet.
    """

    version: int = 1
    currency: str = "USD"
    nano_per_byte: int = 200
    unit_bytes: int = 1
    overhead_bytes: int = 0
