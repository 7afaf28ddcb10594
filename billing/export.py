"""A statement as a file for finance, in the columns of SORACOM's billing CSV.

Rules: UTF-8 with BOM, CRLF (RFC 4180), a fixed order of lines, exact decimal text without exponent: the
same statement is the same bytes. Every value is a number, a date or a name of ours; nothing that a
customer wrote stands in it, so no cell can become a formula.
"""

import csv
import io

from billing.rating import NANO, Statement

COLUMNS = ("imsi", "date", "billItemName", "unitPrice", "quantity", "amount")


def to_csv(statement: Statement) -> bytes:
    """One line for each charge; ``unitPrice`` per octet, ``quantity`` in octets, both in full precision."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for charge in statement.charges:
        writer.writerow(
            (
                charge.imsi,
                charge.day,
                charge.bill_item,
                decimal_text(charge.unit_price_nano),
                charge.quantity_bytes,
                decimal_text(charge.amount_nano),
            )
        )
    return text.getvalue().encode("utf-8-sig")


def decimal_text(amount_nano: int) -> str:
    """Nano-units as exact decimal text: 200 → ``0.0000002``."""
    whole, fraction = divmod(amount_nano, NANO)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
