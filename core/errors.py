"""Every error Airloom raises on purpose, as one tree.

::

    AirloomError
    ├── ProtocolError             a message breaks its protocol; carries the wire cause
    │   ├── LocalProtocolError    we were about to break it: a bug of ours
    │   └── RemoteProtocolError   the peer broke it: answer with the cause, or count and drop
    ├── Refused                   the request is well formed and the answer is no; carries a reason
    ├── StaleVersion              a conditional write met another version: read again, decide again
    ├── Unavailable               an adapter's far side cannot answer now; the outcome may be unknown
    │   ├── Unreadable            one stored item can never be read; its neighbours can
    │   └── SourceGone            a stream or shard is not there
    ├── PositionLost              a stream has nothing at this position any more: begin at the oldest record
    ├── LeaseLost                 another node holds what this one held: it must stop
    └── ConfigurationError        the operator's input is wrong; the message says what and how to mend it

Rules: code inside a protocol machine raises ``LocalProtocolError`` or ``RemoteProtocolError`` and nothing
else; services raise ``Refused``; adapters raise ``Unavailable`` or ``StaleVersion``. Each front end maps
``Refused.reason`` to its own wire by one total table.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from core.domain.reasons import AttachRefusal, RequestRefusal


class AirloomError(Exception):
    """Base of every error raised on purpose."""


class ProtocolError(AirloomError):
    """A message breaks its protocol.

    ``cause`` is the protocol's own number for it (GTPv1 cause, TS 29.060 §7.7.1) or ``None`` when the
    protocol asks for silence; ``offending`` is the type of the information element at fault, if one is.
    """

    def __init__(self, message: str, *, cause: int | None = None, offending: int | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.offending = offending


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol."""


class Refused(AirloomError):
    """A well-formed request whose answer is no; ``retry_after_s`` is not 0 when it is one of time."""

    def __init__(
        self, reason: AttachRefusal | RequestRefusal, detail: str = "", *, retry_after_s: int = 0
    ) -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


class StaleVersion(AirloomError):
    """A conditional write found another version than it expected; nothing was written."""


class Unavailable(AirloomError):
    """The far side of an adapter cannot answer now.

    ``ambiguous`` is true when the request may have been carried out all the same (a time-out after
    sending): undo must then quarantine what the request named, never free it.
    """

    def __init__(self, message: str, *, ambiguous: bool = False) -> None:
        super().__init__(message)
        self.ambiguous = ambiguous


class Unreadable(Unavailable):
    """One stored item is damaged: asking again changes nothing. The message names it."""


class SourceGone(Unavailable):
    """A stream or a shard is not there; it may be created again."""


class PositionLost(AirloomError):
    """A checkpoint is none of this stream's, lies beyond its end, or what follows it was trimmed."""


class LeaseLost(AirloomError):
    """Another node holds the gateway instance that this one held; it must not answer nor write any more."""


class ConfigurationError(AirloomError):
    """What the operator wrote cannot be used; the message names the key and the fix."""


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raises what a group of tasks failed with: an error that is not this module's, else the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        _, unexpected = group.split(AirloomError)
        raise first_of(unexpected or group) from group


def first_of(error: BaseException) -> BaseException:
    """What groups of tasks within tasks are about."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
