"""A customer's account: operator, auth keys, group.

Rules: secrets are stored as digests only; ``operator_id`` is ``OP`` and ten digits. An operator is closed,
never removed, so that its SIMs' usage keeps an owner.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Operator:
    """A customer (the contract's operator). ``password_hash`` is argon2id, empty when none is set.

    ``generation`` rises with each change of the password: tokens of an earlier one are refused.
    ``is_listed``: stored by a version that lists operators.
    """

    operator_id: str
    email: str
    created: datetime
    modified: datetime
    password_hash: str = field(default="", repr=False)
    description: str = ""
    currency: str = "USD"
    version: int = 0
    generation: int = 0
    closed: datetime | None = None
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class AuthKey:
    """A key pair for programs; ``secret_sha256`` is the hex digest of the secret half."""

    auth_key_id: str
    operator_id: str
    secret_sha256: str = field(repr=False)
    created: datetime
    user_name: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A set of SIMs under one configuration: ``{namespace: {key: value}}``, at most 8 KB as JSON."""

    group_id: str
    operator_id: str
    created: datetime
    modified: datetime
    configuration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Left out of ``repr``: it may contain a password (``SoracomAir.authentication``)."""
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int = 0
