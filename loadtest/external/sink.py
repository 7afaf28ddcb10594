"""A host on the internet side that counts the IPv4 octets of UDP datagrams sent to it, by source address.

Rule: it shares nothing with Airloom. When its stdin closes it prints one JSON object and ends. With ``echo``
as its last argument it sends each datagram back.
"""

import json
import selectors
import socket
import sys
from collections import Counter
from contextlib import suppress

IPV4_AND_UDP_HEADER_BYTES = 28


def main(address: str, port: int, *, is_echo: bool) -> None:
    """Count until stdin closes."""
    octets: Counter[str] = Counter()
    with socket.socket(type=socket.SOCK_DGRAM) as bound, selectors.DefaultSelector() as ready:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        bound.bind((address, port))
        ready.register(bound, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            events = [key.fileobj for key, _ in ready.select()]
            if bound in events:
                payload, source = bound.recvfrom(65_535)
                octets[source[0]] += len(payload) + IPV4_AND_UDP_HEADER_BYTES
                if is_echo:
                    with suppress(OSError):
                        bound.sendto(payload, source)
            elif sys.stdin in events and not sys.stdin.readline():
                break
    sys.stdout.write(json.dumps(octets) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), is_echo=sys.argv[3:] == ["echo"])
