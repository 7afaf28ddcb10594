"""One row of a SIM import.

Rule: a row is checked by itself, so a whole file can be checked before the import begins.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from core.domain.speed import SPEEDS_KBPS


class StockRow(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One SIM. ``operator_id``: its owner from the start; if absent, a customer registers it with its
    secret.
    """

    imsi: str
    iccid: str
    msisdn: str = ""
    registration_secret: str = ""
    subscription: str = "plan01s"
    module_type: str = "nano"
    speed_class: str = "s1.standard"
    operator_id: str = ""

    def __repr__(self) -> str:
        """Shows no secret."""
        return f"StockRow(imsi={self.imsi!r}, iccid={self.iccid!r})"


_RULES = (
    ("imsi", re.compile(r"[0-9]{6,15}"), "must be 6 to 15 digits (TS 23.003 §2.2)"),
    ("iccid", re.compile(r"[0-9]{18,20}"), "must be 18 to 20 digits (ITU-T E.118)"),
    ("msisdn", re.compile(r"([0-9]{5,15})?"), "must be 5 to 15 digits without + (E.164), or empty"),
    (
        "registration_secret",
        re.compile(r"([!-~]{8,128})?"),
        "must be 8 to 128 printable ASCII characters without spaces",
    ),
    ("subscription", re.compile(r"[A-Za-z0-9_.-]{1,64}"), "must be 1 to 64 letters, digits, '_', '.', '-'"),
    ("module_type", re.compile(r"[A-Za-z0-9_.-]{1,32}"), "must be 1 to 32 letters, digits, '_', '.', '-'"),
    ("operator_id", re.compile(r"(OP[0-9]{10})?"), "must be OP and ten digits, or empty"),
)
FIELDS = StockRow.__struct_fields__


def problems_of(row: StockRow) -> Iterator[str]:
    """Its problems, as ``field: the problem``; never with the value of a secret."""
    for name, pattern, wanted in _RULES:
        value = getattr(row, name)
        if not pattern.fullmatch(value):
            shown = "" if name == "registration_secret" else f" (got {value[:40]!r})"
            yield f"{name}: {wanted}{shown}"
    if row.speed_class not in SPEEDS_KBPS:
        yield f"speed_class: no such speed class (got {row.speed_class[:40]!r})"
    if not row.registration_secret and not row.operator_id:
        yield "registration_secret: required unless operator_id is given"
