"""Bodies of requests, by the contract; unknown fields are ignored, as older and newer clients send them."""

from ipaddress import IPv4Address
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

Text = Annotated[str, StringConstraints(max_length=1_024)]
"""Names, ids, secrets, tag values: none is longer."""
Octets = Annotated[int, Field(ge=0, lt=2**53)]
"""A counter that every JSON reader can hold."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Nothing: bodies hold passwords."""
        return []


class AuthRequest(_Body):
    """auth: one of three pairs. The lifetime may come as digits in a string."""

    email: Text | None = None
    password: Text | None = None
    authKeyId: Text | None = None
    authKey: Text | None = None
    operatorId: Text | None = None
    userName: Text | None = None
    mfaOTPCode: Text | None = None
    tokenTimeoutSeconds: Annotated[int, Field(strict=False)] | None = None


class RegisterRequest(_Body):
    """registerSim, registerSubscriber."""

    registrationSecret: Text
    groupId: Text | None = None
    tags: dict[Text, Text] | None = None


class SpeedClassRequest(_Body):
    """updateSimSpeedClass."""

    speedClass: Text


class SetImeiLockRequest(_Body):
    """setSimImeiLock; without an IMEI that of the device it is in."""

    imei: Text | None = None


class SetGroupRequest(_Body):
    """setSimGroup."""

    groupId: Text


class TagUpdate(_Body):
    """One of putSimTags, putGroupTags."""

    tagName: Text
    tagValue: Text


class CreateGroupRequest(_Body):
    """createGroup."""

    configuration: dict[Text, dict[str, Any]] | None = None
    tags: dict[Text, Text] | None = None


class ParameterUpdate(_Body):
    """One of putConfigurationParameters."""

    key: Text
    value: Any


class PutIpAddressMapEntryRequest(_Body):
    """putVirtualPrivateGatewayIpAddressMapEntry."""

    key: Text
    ipAddress: IPv4Address


class UpdatePasswordRequest(_Body):
    """updateOperatorPassword."""

    currentPassword: Text
    newPassword: Text


class SandboxInitRequest(_Body):
    """sandboxInitializeOperator; any production key will do."""

    email: Text
    password: Text
    authKeyId: Text
    authKey: Text


class SandboxCreateSubscriberRequest(_Body):
    """sandboxCreateSubscriber."""

    subscription: Annotated[Text, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")] = "plan01s"
    bundles: Annotated[list[Text], Field(max_length=10)] | None = None


class SandboxTraffic(_Body):
    """Counters of one speed class."""

    uploadByteSizeTotal: Octets = 0
    downloadByteSizeTotal: Octets = 0
    uploadPacketSizeTotal: Octets = 0
    downloadPacketSizeTotal: Octets = 0


class SandboxInsertAirStatsRequest(_Body):
    """sandboxInsertAirStats."""

    unixtime: Annotated[int, Field(ge=0, lt=2**53)]
    dataTrafficStatsMap: dict[Text, SandboxTraffic]


TAG_UPDATES = TypeAdapter(Annotated[list[TagUpdate], Field(max_length=100)])
PARAMETER_UPDATES = TypeAdapter(Annotated[list[ParameterUpdate], Field(max_length=1_000)])
