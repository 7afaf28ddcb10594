"""Usage record × tariff → charge. Pure, integer; the quantity is rounded here, the money never."""

from dataclasses import dataclass

from billing.metering import UsageRecord
from core.domain.billing import Tariff

DATA_TRAFFIC = "dataTrafficCharge"


@dataclass(frozen=True, slots=True, order=True)
class Charge:
    """One priced line: quantity in octets, money in nano-units."""

    imsi: str
    day: int
    bill_item: str
    quantity_bytes: int
    unit_price_nano: int
    amount_nano: int


def rate(record: UsageRecord, tariff: Tariff) -> Charge:
    """Price one usage record; its quantity is rounded up to the tariff's unit."""
    used = record.up_bytes + record.down_bytes + record.packets * tariff.overhead_bytes
    units = -(-used // tariff.unit_bytes)
    quantity = units * tariff.unit_bytes
    return Charge(
        imsi=record.imsi,
        day=record.day,
        bill_item=f"{DATA_TRAFFIC}.{record.speed_class}",
        quantity_bytes=quantity,
        unit_price_nano=tariff.nano_per_byte,
        amount_nano=quantity * tariff.nano_per_byte,
    )
