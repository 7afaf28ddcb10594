"""The requests of a busy GGSN, and a client that keeps a server busy with them.

Rules: what is sent are pyrad's packets with the attributes of TS 29.061 §16.4, made beforehand; each response
is checked by its authenticator, after the clock has stopped; a request without a response is sent again and
counted. The load is a closed loop of ``WINDOW`` requests over ``SOCKETS`` sockets.
"""

import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any, NamedTuple

from pyrad.dictionary import Dictionary
from pyrad.packet import AccountingRequest, AcctPacket, AuthPacket

from loadtest.peers.nas import INTERIM, NasSession
from radius.codec import Code, decode, is_answer

SOCKETS, WINDOW = 16, 64
SILENT_S, SILENCES_MAX = 1.0, 5
DICTIONARY = Dictionary(
    StringIO(
        "ATTRIBUTE User-Name 1 string\nATTRIBUTE NAS-IP-Address 4 ipaddr\nATTRIBUTE Service-Type 6 integer\n"
        "ATTRIBUTE Framed-Protocol 7 integer\nATTRIBUTE Framed-IP-Address 8 ipaddr\n"
        "ATTRIBUTE Class 25 octets\nATTRIBUTE Called-Station-Id 30 string\n"
        "ATTRIBUTE Calling-Station-Id 31 string\nATTRIBUTE NAS-Identifier 32 string\n"
        "ATTRIBUTE Acct-Status-Type 40 integer\nATTRIBUTE Acct-Delay-Time 41 integer\n"
        "ATTRIBUTE Acct-Input-Octets 42 integer\nATTRIBUTE Acct-Output-Octets 43 integer\n"
        "ATTRIBUTE Acct-Session-Id 44 string\nATTRIBUTE Acct-Session-Time 46 integer\n"
        "ATTRIBUTE Acct-Input-Packets 47 integer\nATTRIBUTE Acct-Output-Packets 48 integer\n"
        "ATTRIBUTE Acct-Input-Gigawords 52 integer\nATTRIBUTE Acct-Output-Gigawords 53 integer\n"
        "ATTRIBUTE NAS-Port-Type 61 integer\nATTRIBUTE Message-Authenticator 80 octets\n"
        "VENDOR 3GPP 10415\nBEGIN-VENDOR 3GPP\nATTRIBUTE 3GPP-IMSI 1 string\n"
        "ATTRIBUTE 3GPP-Charging-ID 2 integer\nATTRIBUTE 3GPP-PDP-Type 3 integer\n"
        "ATTRIBUTE 3GPP-SGSN-Address 6 ipaddr\nATTRIBUTE 3GPP-GGSN-Address 7 ipaddr\n"
        "ATTRIBUTE 3GPP-IMSI-MCC-MNC 8 string\nATTRIBUTE 3GPP-SGSN-MCC-MNC 18 string\n"
        "ATTRIBUTE 3GPP-IMEISV 20 string\nEND-VENDOR 3GPP\n"
    )
)


class Request(NamedTuple):
    """A packet, and what its response is checked by."""

    data: bytes
    authenticator: bytes


def access_requests(sessions: Iterable[NasSession], *, apn: str, secret: bytes) -> list[Request]:
    """Each SIM asks once."""
    requests = []
    for number, session in enumerate(sessions):
        packet: Any = AuthPacket(
            dict=DICTIONARY, secret=secret, id=number % 256, authenticator=os.urandom(16)
        )
        _describe(packet, session, apn)
        packet.add_message_authenticator()
        requests.append(Request(packet.RequestPacket(), packet.authenticator))
    return requests


def interim_updates(sessions: Iterable[NasSession], *, octets: int, apn: str, secret: bytes) -> list[Request]:
    """Each session reports once; ``octets`` in each direction since it began."""
    requests = []
    for number, session in enumerate(sessions):
        packet: Any = AcctPacket(code=AccountingRequest, dict=DICTIONARY, secret=secret, id=number % 256)
        _describe(packet, session, apn)
        packet["Acct-Status-Type"] = INTERIM
        packet["Acct-Session-Id"] = session.acct_session_id
        packet["Class"] = session.class_
        packet["Framed-IP-Address"] = str(session.ue_address)
        packet["Acct-Session-Time"] = octets
        packet["3GPP-Charging-ID"] = number + 1
        for direction in ("Input", "Output"):
            packet[f"Acct-{direction}-Octets"] = octets
            packet[f"Acct-{direction}-Packets"] = octets // 500
            packet[f"Acct-{direction}-Gigawords"] = 0
        data = packet.RequestPacket()
        requests.append(Request(data, data[4:20]))
    return requests


def _describe(packet: Any, session: NasSession, apn: str) -> None:
    """Who it is, and where (TS 29.061 §16.4.1)."""
    packet["User-Name"] = session.imsi
    packet["NAS-IP-Address"] = "127.0.3.1"
    packet["Service-Type"] = 2
    packet["Framed-Protocol"] = 7
    packet["Called-Station-Id"] = apn
    packet["Calling-Station-Id"] = "81" + session.imsi[5:]
    packet["NAS-Identifier"] = "ggsn-1"
    packet["NAS-Port-Type"] = 18
    packet["3GPP-IMSI"] = session.imsi
    packet["3GPP-PDP-Type"] = 0
    packet["3GPP-SGSN-Address"] = "192.0.2.1"
    packet["3GPP-GGSN-Address"] = "192.0.2.2"
    packet["3GPP-IMSI-MCC-MNC"] = session.imsi[:5]
    packet["3GPP-SGSN-MCC-MNC"] = "44010"
    packet["3GPP-IMEISV"] = "3569380356438091"


def drive(
    server: tuple[str, int], requests: Sequence[Request], code: Code, secret: bytes
) -> tuple[float, int]:
    """Send all, wait for all responses; seconds that it took and requests that were sent again.

    Raises ``RuntimeError`` when the server goes silent, or a response is another than ``code`` or forged.
    """
    sockets = [_connected(server) for _ in range(SOCKETS)]
    poll = select.epoll()
    for bound in sockets:
        poll.register(bound, select.EPOLLIN)
    try:
        at = {bound.fileno(): bound for bound in sockets}
        began = time.monotonic()
        responses, repeats = _exchange(poll, at, deque(requests))
        took = time.monotonic() - began
    finally:
        poll.close()
        for bound in sockets:
            bound.close()
    for request, data in responses:
        response = decode(data)
        if response.code != code or not is_answer(response, request.authenticator, secret):
            raise RuntimeError(f"{server[0]}: a response of code {response.code}, or a forged one")
    return took, repeats


def _connected(server: tuple[str, int]) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    bound.connect(server)
    return bound


def _exchange(
    poll: select.epoll, at: dict[int, socket.socket], waiting: deque[Request]
) -> tuple[list[tuple[Request, bytes]], int]:
    asked: dict[tuple[int, int], Request] = {}
    responses: list[tuple[Request, bytes]] = []
    repeats = silences = 0

    def ask(number: int) -> None:
        if waiting:
            request = waiting.popleft()
            asked[number, request.data[1]] = request
            at[number].send(request.data)

    for number in at:
        for _ in range(WINDOW // SOCKETS):
            ask(number)
    while asked:
        ready = poll.poll(SILENT_S)
        if not ready:
            silences, repeats = silences + 1, repeats + len(asked)
            if silences > SILENCES_MAX:
                raise RuntimeError(f"no response to {len(asked)} requests")
            for (number, _), request in asked.items():
                at[number].send(request.data)
        for number, _ in ready:
            receive = at[number].recv
            while True:
                try:
                    data = receive(4_096)
                except BlockingIOError:
                    break
                if (number, data[1]) in asked:
                    request = asked.pop((number, data[1]))
                    responses.append((request, data))
                    ask(number)
    return responses, repeats
