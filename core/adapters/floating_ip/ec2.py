"""Addresses as secondary private IPs of this EC2 instance's network interface.

Rules:

- EC2 moves the address from whichever interface has it (AllowReassignment). Addresses are never unassigned,
  because EC2 could then give them to another instance. The address is then added to the interface, as on any
  network.
- A call may be carried out late, after another node has taken over. So the holder checks repeatedly that EC2
  has the address here (instance metadata, no quota), and otherwise takes it back.
- Only addresses of the interface's own subnet can be here, and a subnet belongs to one Availability Zone.
"""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import aioboto3
import aiohttp
from botocore.config import Config as SdkConfig
from botocore.exceptions import BotoCoreError, ClientError

from core.errors import ConfigurationError, Unavailable
from core.ports.floating_ip import FloatingIp

METADATA = "http://169.254.169.254"
METADATA_S, CONNECT_S, CALL_S = 2.0, 2.0, 5.0
LOOK_S = 5.0
"""How often the metadata are read; a move shows in them some seconds after EC2 said yes."""
TOKEN_LIFE_S = 60
_KEY = "gateway.floating_ip ec2"
_FIXES = {
    "UnauthorizedOperation": "allow ec2:AssignPrivateIpAddresses on it to the instance's role",
    "AuthFailure": "invalid credentials; correct the instance's role or AWS_PROFILE",
    "InvalidParameterValue": "the address must be in the interface's subnet and not a primary address",
    "InvalidNetworkInterfaceID.NotFound": "the network interface does not exist; start the node on an"
    " instance that has it",
    "PrivateIpAddressLimitExceeded": "the instance type's address limit is reached; use a larger one, or"
    " more nodes",
}
"""Errors that only the operator can fix; all others may be temporary."""


class Ec2FloatingIp:
    """Implements ``FloatingIp``; make it with ``open``."""

    def __init__(
        self, *, interface: FloatingIp, metadata: "Metadata", sdk: Any, eni: str, subnet: IPv4Network
    ) -> None:
        self._interface = interface
        self._metadata = metadata
        self._sdk = sdk
        self._eni = eni
        self._subnet = subnet
        self._asked: dict[IPv4Address, float] = {}
        self._open_parts = AsyncExitStack()

    @classmethod
    async def open(
        cls, *, interface: FloatingIp, station: bytes, metadata: str = METADATA, endpoint: str = ""
    ) -> "Ec2FloatingIp":
        """Ask the instance which network interface has the link address ``station``; ``interface`` adds and
        removes addresses there. Credentials come by the usual chain. Raises ``ConfigurationError``.
        """
        async with AsyncExitStack() as parts:
            timeout = aiohttp.ClientTimeout(total=METADATA_S)
            http = await parts.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            metadata_service = Metadata(http, f"{metadata}/latest", station.hex(":"))
            eni, subnet, region = await _place_of(metadata_service)
            session = aioboto3.Session(region_name=region)
            if await session.get_credentials() is None:
                raise ConfigurationError(
                    f"{_KEY}: there are no AWS credentials; give the instance a role, or set AWS_PROFILE"
                )
            sdk_config = SdkConfig(
                retries={"total_max_attempts": 1, "mode": "standard"},
                connect_timeout=CONNECT_S,
                read_timeout=CALL_S,
            )
            sdk = await parts.enter_async_context(
                session.client("ec2", endpoint_url=endpoint or None, config=sdk_config)
            )
            floating_ip = cls(interface=interface, metadata=metadata_service, sdk=sdk, eni=eni, subnet=subnet)
            floating_ip._open_parts = parts.pop_all()
            return floating_ip

    def may_attach(self, address: IPv4Address) -> bool:
        """Whether it is of the interface's subnet."""
        return address in self._subnet

    async def attach(self, address: IPv4Address, *, lasting_s: float) -> None:
        """Have EC2 send it here, at first and when it turns out to be elsewhere."""
        began = time.monotonic()
        asked = self._asked.get(address)
        if asked is None or (began - asked > LOOK_S and not await self._is_here(address)):
            await self._assign(address)
            self._asked[address] = time.monotonic()
        left_s = lasting_s - (time.monotonic() - began)
        if left_s <= 0:
            raise Unavailable(f"{address}: EC2 took longer than the lease term")
        await self._interface.attach(address, lasting_s=left_s)

    async def detach(self, address: IPv4Address) -> None:
        """Take it off the interface here; EC2 sends it on when the next holder asks."""
        self._asked.pop(address, None)
        await self._interface.detach(address)

    async def aclose(self) -> None:
        """Let the connections go."""
        await self._open_parts.aclose()

    async def _is_here(self, address: IPv4Address) -> bool:
        """By the metadata; where they do not answer, as far as is known."""
        self._asked[address] = time.monotonic()
        with suppress(Unavailable):
            return str(address) in (await self._metadata.of_interface("local-ipv4s")).split()
        return True

    async def _assign(self, address: IPv4Address) -> None:
        where = f"{address} to {self._eni}"
        try:
            async with asyncio.timeout(CALL_S):
                await self._sdk.assign_private_ip_addresses(
                    NetworkInterfaceId=self._eni,
                    PrivateIpAddresses=[str(address)],
                    AllowReassignment=True,
                )
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _FIXES:
                raise ConfigurationError(f"{_KEY}: {where}: {code}: {_FIXES[code]}") from None
            raise Unavailable(f"{where}: {error}") from error
        except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{where}: EC2 does not answer: {error!r}", ambiguous=True) from error


class Metadata:
    """The instance metadata service, version 2, about the interface with link address ``station``."""

    def __init__(self, http: aiohttp.ClientSession, url: str, station: str) -> None:
        self._http = http
        self._url = url
        self._station = station

    async def of_interface(self, what: str) -> str:
        """Raises ``Unavailable``."""
        return await self.of_instance(f"network/interfaces/macs/{self._station}/{what}")

    async def of_instance(self, what: str) -> str:
        """Raises ``Unavailable``."""
        try:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_LIFE_S)}
            async with self._http.put(f"{self._url}/api/token", headers=wanted) as answer:
                answer.raise_for_status()
                shown = {"X-aws-ec2-metadata-token": await answer.text()}
            async with self._http.get(f"{self._url}/meta-data/{what}", headers=shown) as answer:
                answer.raise_for_status()
                return (await answer.text()).strip()
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"instance metadata, {what}: {error!r}") from error


async def _place_of(metadata: Metadata) -> tuple[str, IPv4Network, str]:
    """The interface's id at EC2, its subnet and its region; raises ``ConfigurationError``."""
    try:
        return (
            await metadata.of_interface("interface-id"),
            IPv4Network(await metadata.of_interface("subnet-ipv4-cidr-block")),
            await metadata.of_instance("placement/region"),
        )
    except (Unavailable, ValueError) as error:
        raise ConfigurationError(
            f"{_KEY}: {error}; it needs an EC2 instance with its metadata service on, and"
            " gateway.floating_ip_interface one of its network interfaces"
        ) from None
