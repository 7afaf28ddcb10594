"""The customer API, metering and the tariff."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.config.base import Port, Section, is_loopback, text
from core.domain.billing import Tariff


class ApiConfig(Section):
    """The customer API.

    ``sandbox`` adds SORACOM's sandbox operations, which give accounts and SIMs to everyone who reaches the
    API; beyond loopback ``sandbox_exposed`` must confirm it. The SIMs get IMSIs of ``sandbox_plmn`` (MCC and
    MNC; 00101 is the test network).

    ``proxies`` are the networks of load balancers. Their X-Forwarded-For names the client, by which failed
    sign-ins are limited, and their X-Forwarded-Proto decides whether links to exports begin with https.

    One address may have ``connections_per_address`` connections open: raise it where all customers come
    through a proxy. An operator may make ``calls_per_s`` calls a second on each node with the role ``api``
    (0: any number); lists and bills count as several (``api.limits``).
    """

    host: str = "127.0.0.1"
    port: Port = 8_080
    sandbox: bool = False
    sandbox_exposed: bool = False
    sandbox_plmn: Annotated[str, text(r"[0-9]{5,6}", "MCC and MNC: 5 or 6 digits, as 00101")] = "00101"
    proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], Field(max_length=1_000)] = ()
    connections_per_address: Annotated[int, Field(ge=1)] = 256
    calls_per_s: Annotated[float, Field(ge=0)] = 200.0

    @model_validator(mode="after")
    def _check(self) -> "ApiConfig":
        if self.sandbox and not self.sandbox_exposed and not is_loopback(self.host):
            raise ValueError(
                f"sandbox: gives accounts and SIMs to anyone who can reach {self.host}; turn it off, set"
                f" api.host to a loopback address, or confirm it with api.sandbox_exposed = true"
            )
        return self


class UsageConfig(Section):
    """Metering: each session with new usage is reported every ``report_interval_s``; a UTC day is rolled up
    ``rollup_after_s`` after its end, and later reports of it are rolled up as they come.
    """

    report_interval_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    rollup_after_s: Annotated[float, Field(ge=0, le=864_000)] = 3_600.0


class BillingConfig(Section):
    """The tariff: integer nano-units of the currency for each byte."""

    currency: Literal["USD", "JPY", "EUR"] = "USD"
    nano_per_byte: Annotated[int, Field(ge=0)] = 200
    unit_bytes: Annotated[int, Field(ge=1)] = 1

    @property
    def tariff(self) -> Tariff:
        """The tariff, as rating uses it."""
        return Tariff(currency=self.currency, nano_per_byte=self.nano_per_byte, unit_bytes=self.unit_bytes)
