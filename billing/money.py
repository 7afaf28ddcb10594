"""Units of money."""

from collections.abc import Mapping

NANO = 1_000_000_000
NANO_PER_MINOR_UNIT: Mapping[str, int] = {"USD": NANO // 100, "EUR": NANO // 100, "JPY": NANO}
"""Nano-units in a currency's minor unit (ISO 4217: cents, cents, whole yen)."""
