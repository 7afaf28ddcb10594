"""The name server that devices are told of: platform names to platform addresses, and nothing else.

Rules: what is no question gets no answer; a platform name of another type than A has no data; every other
name is refused, for this is no resolver (RFC 1035 §4.1.1, RCODE 5). An answer is never longer than its
question by more than one record, so nobody is flooded through it.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address

from dnslib import CLASS, OPCODE, QTYPE, RCODE, RR, A, DNSError, DNSRecord

DNS_PORT = 53
QUESTION_BYTES_MAX = 512
"""A message over UDP (RFC 1035 §2.3.4)."""
TTL_S = 300


class NameServer:
    """Answers questions. ``names`` are lower case, without the last dot."""

    def __init__(self, names: Mapping[str, IPv4Address]) -> None:
        self._names = dict(names)

    def answer(self, message: bytes) -> bytes | None:
        """The answer to a question; ``None`` for what is none."""
        question = _question(message)
        if question is None:
            return None
        asked = question.q
        reply = question.reply(ra=0, aa=1)
        address = self._names.get(str(asked.qname).rstrip(".").lower())
        if question.header.opcode != OPCODE.QUERY or asked.qclass != CLASS.IN:
            reply.header.rcode = RCODE.NOTIMP
        elif address is None:
            reply.header.rcode, reply.header.aa = RCODE.REFUSED, 0
        elif asked.qtype == QTYPE.A:
            reply.add_answer(RR(asked.qname, QTYPE.A, ttl=TTL_S, rdata=A(str(address))))
        packed: bytes = reply.pack()
        return packed


def _question(message: bytes) -> DNSRecord | None:
    """A message with exactly one question that is no response."""
    if not 12 < len(message) <= QUESTION_BYTES_MAX:
        return None
    try:
        record = DNSRecord.parse(message)
        str(record.q.qname)
    except (DNSError, ValueError, IndexError, KeyError, RecursionError):
        return None
    return record if record.header.qr == 0 and len(record.questions) == 1 else None
