"""What a virtual gateway lends out: device addresses and TEIDs.

Rules: nothing is lent twice; what comes back rests in quarantine before it is lent again, so that a late
packet of the old holder never reaches the new one; TEIDs are unpredictable and never 0.
"""

from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

TEID_DRAWS_MAX = 64
"""A draw meets a TEID in use with probability below 2**-12 even at a million sessions."""


class PoolExhausted(Exception):
    """Everything is lent out or in quarantine."""


class AddressPool:
    """IPv4 addresses of one network, without its network, broadcast and first host (the gateway's) address.

    Addresses are lent in order and, when the network was gone through once, in the order in which their
    quarantine ends. Memory grows with what is lent, not with the network.
    """

    def __init__(self, network: IPv4Network, *, quarantine_s: float) -> None:
        self._network = network
        self._quarantine_s = quarantine_s
        self._next = 2
        self._lent: set[IPv4Address] = set()
        self._resting: deque[tuple[float, IPv4Address]] = deque()

    @property
    def lent(self) -> int:
        """How many are lent out."""
        return len(self._lent)

    def lease(self, now: float) -> IPv4Address:
        """An address that nobody holds; raises ``PoolExhausted``."""
        while self._next < self._network.num_addresses - 1:
            address = self._network[self._next]
            self._next += 1
            if address not in self._lent:
                self._lent.add(address)
                return address
        while self._resting and self._resting[0][0] <= now:
            address = self._resting.popleft()[1]
            if address not in self._lent:
                self._lent.add(address)
                return address
        raise PoolExhausted(f"all addresses of {self._network} are lent")

    def claim(self, address: IPv4Address) -> bool:
        """Mark an address as lent: its holder is known from elsewhere. False when it cannot be lent."""
        if address in self._lent or address not in self._network:
            return False
        self._lent.add(address)
        return True

    def release(self, address: IPv4Address, now: float) -> None:
        """Give it back, into quarantine; idempotent."""
        if address in self._lent:
            self._lent.remove(address)
            self._resting.append((now + self._quarantine_s, address))


class TeidPool:
    """32-bit tunnel endpoint identifiers (TS 29.281 §5.1), drawn from a CSPRNG."""

    def __init__(self, random_bytes: Callable[[int], bytes], *, quarantine_s: float) -> None:
        self._random_bytes = random_bytes
        self._quarantine_s = quarantine_s
        self._taken: set[int] = set()
        self._resting: deque[tuple[float, int]] = deque()

    @property
    def lent(self) -> int:
        """How many are lent out."""
        return len(self._taken) - len(self._resting)

    def lease(self, now: float) -> int:
        """A TEID that is neither in use nor in quarantine; raises ``PoolExhausted``."""
        while self._resting and self._resting[0][0] <= now:
            self._taken.discard(self._resting.popleft()[1])
        for _ in range(TEID_DRAWS_MAX):
            teid = int.from_bytes(self._random_bytes(4), "big")
            if teid and teid not in self._taken:
                self._taken.add(teid)
                return teid
        raise PoolExhausted("no free TEID found")

    def claim(self, teid: int) -> None:
        """Mark a TEID as lent: its session was read back from the store."""
        self._taken.add(teid)

    def release(self, teid: int, now: float) -> None:
        """Give it back, into quarantine. Call once per lease."""
        self._resting.append((now + self._quarantine_s, teid))
