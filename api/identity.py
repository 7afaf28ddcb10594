"""Operations of Auth and Operator."""

from aiohttp import web

from api.calls import Call, answer, nothing
from api.models import AuthRequest, UpdatePasswordRequest
from api.views import auth_key_view, operator_view
from core.domain.reasons import RequestRefusal
from core.errors import Refused
from core.services.customers.identity import TOKEN_LIFETIME_DEFAULT_S, Credentials


def credentials_view(credentials: Credentials) -> dict[str, str]:
    """AuthResponse."""
    return {
        "apiKey": credentials.api_key,
        "operatorId": credentials.operator_id,
        "token": credentials.token,
    }


async def auth(call: Call) -> web.Response:
    """Sign in by auth key, or by e-mail address and password; SAM users are not offered."""
    body = await call.body(AuthRequest)
    identity = call.services.identity
    lifetime_s = TOKEN_LIFETIME_DEFAULT_S if body.tokenTimeoutSeconds is None else body.tokenTimeoutSeconds
    for name in ("mfaOTPCode", "userName"):
        if getattr(body, name):
            what = "multi-factor authentication" if name == "mfaOTPCode" else "signing in as a SAM user"
            raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: {what} is not offered; leave it empty")
    if body.authKeyId and body.authKey:
        found = await identity.sign_in_by_auth_key(
            body.authKeyId, body.authKey, lifetime_s=lifetime_s, source=call.source
        )
    elif body.email and body.password:
        found = await identity.sign_in_by_password(
            body.email, body.password, lifetime_s=lifetime_s, source=call.source
        )
    else:
        raise Refused(
            RequestRefusal.NOT_AUTHENTICATED, "authKeyId and authKey, or email and password, are required."
        )
    if body.operatorId and body.operatorId != found.operator_id:
        raise Refused(RequestRefusal.NOT_AUTHENTICATED, "Authentication failed.")
    return answer(credentials_view(found))


async def logout(call: Call) -> web.Response:
    """End the token that the call was made with."""
    assert call.claims is not None, "authentication is required"
    await call.services.identity.sign_out(call.claims)
    return nothing()


async def get_operator(call: Call) -> web.Response:
    """The caller's own."""
    call.check_operator()
    return answer(operator_view(await call.services.identity.operator(call.operator_id)))


async def update_operator_password(call: Call) -> web.Response:
    """The root user's."""
    call.check_operator()
    body = await call.body(UpdatePasswordRequest)
    await call.services.identity.set_password(
        call.operator_id, body.currentPassword, body.newPassword, source=call.source
    )
    return web.Response()


async def generate_operator_auth_key(call: Call) -> web.Response:
    """A new key; its secret is in this answer only."""
    call.check_operator()
    made = await call.services.identity.generate_auth_key(call.operator_id)
    return answer({"authKeyId": made.key.auth_key_id, "authKey": made.secret}, 201)


async def list_operator_auth_keys(call: Call) -> web.Response:
    """All of them."""
    call.check_operator()
    keys = await call.services.identity.auth_keys(call.operator_id)
    return answer([auth_key_view(key) for key in keys])


async def delete_operator_auth_key(call: Call) -> web.Response:
    """One of the operator's own."""
    call.check_operator()
    await call.services.identity.delete_auth_key(call.operator_id, call.path("auth_key_id"))
    return nothing()
