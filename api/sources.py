"""Where a request comes from, and by what scheme its client asked, as far as it can be known.

Rule: a header is believed only from a proxy that the configuration names; of IPv6 a /64 is one source.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import web

_HOST_BITS = 64


def source_of(request: web.BaseRequest, proxies: Collection[IPv4Network | IPv6Network] = ()) -> str:
    """The last address before the proxies; empty for a socket of this host's file system."""
    address = _address(request.remote or "")
    for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
        if address is None or not any(address in proxy for proxy in proxies):
            break
        address = _address(hop.strip()) or address
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))
    return str(address) if address is not None else ""


def scheme_of(request: web.BaseRequest, proxies: Collection[IPv4Network | IPv6Network] = ()) -> str:
    """``https`` also where a proxy ended TLS and says so (X-Forwarded-Proto)."""
    address, scheme = _address(request.remote or ""), request.headers.get("X-Forwarded-Proto", "").lower()
    is_proxy = address is not None and any(address in proxy for proxy in proxies)
    return scheme if is_proxy and scheme in ("http", "https") else request.scheme


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
