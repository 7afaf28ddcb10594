"""What one version of GTP-C is to the endpoint: its names, causes and messages.

Rule: a version decodes and encodes; what both versions do alike stands in ``gtp.endpoint``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, Session
from gtp.contexts import Context
from gtp.events import Outcome
from gtp.pending import Pending
from gtp.transaction import Peer


class GtpVersion(ABC):
    """What a version fills in."""

    ACCESS: ClassVar[Access]
    SEQUENCE_BITS: ClassVar[int]
    CAUSE: ClassVar[tuple[int, int]]
    """The type of that element, and where its value is when it is the first of a response."""
    CAUSES: ClassVar[Mapping[AttachRefusal, int]]
    """What each refusal is answered with, where nothing else is configured."""
    HAS_BEARERS: ClassVar[bool] = False
    """Whether it can be asked for dedicated bearers."""

    @abstractmethod
    def procedure_of(self, response_type: int) -> str:
        """The name of what a response answers: ``create_session``."""

    @abstractmethod
    def _receive(self, data: bytes, addr: Peer, now: float) -> None:
        """Decode and dispatch one datagram; raises ``RemoteProtocolError`` for a broken header."""

    @abstractmethod
    def _encode_answer(self, pending: Pending, outcome: Outcome) -> bytes:
        """The response to a request."""

    @abstractmethod
    def _encode_release(self, context: Context, sequence: int, reason: CloseReason) -> bytes:
        """The request by which the network ends a context."""

    @abstractmethod
    def _encode_change(self, context: Context, session: Session, sequence: int) -> bytes:
        """The request that tells what a session is granted now."""

    def _encode_bearer_added(self, context: Context, bearer: DedicatedBearer, sequence: int) -> bytes:
        """The request for a dedicated bearer, of a version that has them."""
        raise NotImplementedError

    def _encode_bearer_changed(
        self, context: Context, session: Session, bearer: DedicatedBearer, sequence: int
    ) -> bytes:
        """The request that changes a dedicated bearer, of a version that has them."""
        raise NotImplementedError

    def _encode_bearer_removed(self, context: Context, ebi: int, sequence: int) -> bytes:
        """The request that ends a dedicated bearer, of a version that has them."""
        raise NotImplementedError

    @abstractmethod
    def _encode_echo_request(self, sequence: int) -> bytes:
        """An Echo Request."""
