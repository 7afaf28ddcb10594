"""Operations of Sim, and the older views of the same SIMs by IMSI (Subscriber)."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from aiohttp import web

from api.calls import Call, Handler, answer, instant, nothing, page
from api.models import (
    TAG_UPDATES,
    RegisterRequest,
    SetGroupRequest,
    SetImeiLockRequest,
    SpeedClassRequest,
)
from api.tag_filters import tag_filter
from api.views import session_event_view, sim_view, subscriber_view
from core.domain.reasons import RequestRefusal
from core.domain.session import Session, SessionEvent
from core.domain.sim import Sim, SimEvent, SimStatus
from core.errors import Refused
from core.services.customers.guesses import Guess

View = Callable[[Sim, Sequence[Session], SessionEvent | None], dict[str, object]]

SUBSCRIBER_FILTERS = ("status_filter", "speed_class_filter", "type_filter", "serial_number_filter")
"""Of a list of subscribers; ``type_filter`` is what older clients call ``speed_class_filter``."""
_SUBSCRIBER_PAGE_MAX = 100
_VIEWS_AT_ONCE = 50


async def _one(call: Call, sim: Sim, view: View = sim_view, status: int = 200) -> web.Response:
    """A SIM by itself, with its previous session; lists leave that out."""
    sims = call.services.sims
    sessions, previous = await asyncio.gather(
        sims.sessions_of(sim.sim_id), sims.previous_session(sim.operator_id, sim.sim_id)
    )
    return answer(view(sim, sessions, previous), status)


async def views_of(call: Call, sims: Sequence[Sim], view: View = sim_view) -> list[dict[str, object]]:
    """The views of a page of SIMs; between two parts other calls have their turn. To encode the whole page
    afterwards takes no longer than one part.
    """
    sessions = await call.services.sims.sessions_of_each(sims)
    views: list[dict[str, object]] = []
    for begin in range(0, len(sims), _VIEWS_AT_ONCE):
        if begin:
            await call.services.limits.loop_turns.next()
        part = slice(begin, begin + _VIEWS_AT_ONCE)
        views += [view(sim, of_sim, None) for sim, of_sim in zip(sims[part], sessions[part], strict=True)]
    return views


async def list_sims(call: Call) -> web.Response:
    """By SIM id, in pages."""
    found = await call.services.sims.page(call.operator_id, after=call.after, limit=call.limit)
    return page(call, await views_of(call, found.items), found.next_key)


async def get_sim(call: Call) -> web.Response:
    """The SIM with its session, or the last one that ended."""
    return await _one(call, await call.services.sims.get(call.operator_id, call.path("sim_id")))


async def register_sim(call: Call) -> web.Response:
    """By SIM id and registration secret."""
    sim_id = call.path("sim_id")
    body = await _registration(call)
    async with _guessing(call, sim_id):
        return await _register(call, sim_id, body, sim_view)


async def _registration(call: Call) -> RegisterRequest:
    """The body; a group that the operator has not is refused before anything is guessed."""
    body = await call.body(RegisterRequest)
    if body.groupId:
        await call.services.groups.get(call.operator_id, body.groupId)
    return body


async def _register(call: Call, sim_id: str, body: RegisterRequest, view: View) -> web.Response:
    sim = await call.services.sims.register(
        call.operator_id,
        sim_id,
        body.registrationSecret,
        group_id=body.groupId or "",
        tags=body.tags,
    )
    return await _one(call, sim, view, 201)


def _guessing(call: Call, named: str) -> AbstractAsyncContextManager[None]:
    """Who registers is bounded in how often it may be wrong, and so is each SIM."""
    guesses = call.services.guesses
    return guesses.trying(Guess.REGISTRATION_SECRET, name=named, source=call.operator_id)


def status_change(event: SimEvent) -> Handler:
    """activateSim, deactivateSim, setSimToStandby, suspendSim, terminateSim."""

    async def change(call: Call) -> web.Response:
        return await _one(call, await call.services.sims.apply(call.operator_id, call.path("sim_id"), event))

    return change


def termination(*, enabled: bool) -> Handler:
    """enableSimTermination, disableSimTermination."""

    async def change(call: Call) -> web.Response:
        sims = call.services.sims
        return await _one(
            call, await sims.set_termination(call.operator_id, call.path("sim_id"), enabled=enabled)
        )

    return change


async def update_sim_speed_class(call: Call) -> web.Response:
    """At once."""
    body = await call.body(SpeedClassRequest)
    sims = call.services.sims
    return await _one(
        call, await sims.update_speed_class(call.operator_id, call.path("sim_id"), body.speedClass)
    )


async def set_sim_imei_lock(call: Call) -> web.Response:
    """To the IMEI that is given, or to that of the device it is in."""
    body = await call.body(SetImeiLockRequest)
    sims = call.services.sims
    return await _one(call, await sims.set_imei_lock(call.operator_id, call.path("sim_id"), body.imei or ""))


async def unset_sim_imei_lock(call: Call) -> web.Response:
    """Any device will do again."""
    return await _one(call, await call.services.sims.unset_imei_lock(call.operator_id, call.path("sim_id")))


async def set_sim_group(call: Call) -> web.Response:
    """Into a group of the operator's own."""
    body = await call.body(SetGroupRequest)
    if not body.groupId:
        raise Refused(RequestRefusal.INVALID_FIELD, "groupId: must not be empty")
    sims = call.services.sims
    return await _one(call, await sims.set_group(call.operator_id, call.path("sim_id"), body.groupId))


async def unset_sim_group(call: Call) -> web.Response:
    """Out of its group."""
    return await _one(call, await call.services.sims.set_group(call.operator_id, call.path("sim_id"), ""))


async def put_sim_tags(call: Call) -> web.Response:
    """Add and replace."""
    updates = await call.body_list(TAG_UPDATES)
    tags = {update.tagName: update.tagValue for update in updates}
    return await _one(call, await call.services.sims.put_tags(call.operator_id, call.path("sim_id"), tags))


async def delete_sim_tag(call: Call) -> web.Response:
    """Remove a tag; 404 if the SIM does not have it."""
    await call.services.sims.delete_tag(call.operator_id, call.path("sim_id"), call.path("tag_name"))
    return nothing()


async def delete_sim_session(call: Call) -> web.Response:
    """Disconnect; the device may come back at once."""
    return await _one(call, await call.services.sims.delete_session(call.operator_id, call.path("sim_id")))


async def list_sim_session_events(call: Call) -> web.Response:
    """Newest first, within [from, to] in milliseconds."""
    sims, sim_id = call.services.sims, call.path("sim_id")
    sim = await sims.get(call.operator_id, sim_id)
    now_ms = int(call.services.clock.now().timestamp() * 1_000)
    found = await sims.session_events(
        call.operator_id,
        sim_id,
        since=instant("from", call.query_integer("from", 0) / 1_000),
        until=instant("to", call.query_integer("to", now_ms + 1) / 1_000),
        after=call.after,
        limit=call.limit,
    )
    return page(call, [session_event_view(sim, event) for event in found.items], found.next_key)


# -- Subscriber -------------------------------------------------------------------------------------------


async def register_subscriber(call: Call) -> web.Response:
    """By IMSI and registration secret."""
    body = await _registration(call)
    async with _guessing(call, call.path("imsi")):
        sim_id = await call.services.sims.id_in_stock(call.operator_id, call.path("imsi"))
        return await _register(call, sim_id, body, subscriber_view)


async def get_subscriber(call: Call) -> web.Response:
    """One, by IMSI."""
    sims = call.services.sims
    sim_id = await sims.id_of_imsi(call.operator_id, call.path("imsi"))
    return await _one(call, await sims.get(call.operator_id, sim_id), subscriber_view)


async def list_subscribers(call: Call) -> web.Response:
    """By SIM id, in pages, filtered by tag, status, speed class and serial number."""
    tagged = tag_filter(call)
    statuses = _words(call, "status_filter")
    classes = _words(call, "speed_class_filter") | _words(call, "type_filter")
    serial_number = call.query("serial_number_filter")
    unknown = statuses - {status.value for status in SimStatus}
    if unknown:
        raise Refused(RequestRefusal.INVALID_FIELD, "status_filter: no such status")
    tests: list[Callable[[Sim], bool]] = []
    if tagged:
        tests.append(lambda sim: tagged(sim.tags))
    if statuses:
        tests.append(lambda sim: sim.status.value in statuses)
    if classes:
        tests.append(lambda sim: sim.speed_class in classes)
    if serial_number:
        tests.append(lambda sim: serial_number in sim.serial_number)
    if call.limit > _SUBSCRIBER_PAGE_MAX:
        raise Refused(RequestRefusal.INVALID_FIELD, f"limit: must be 1 to {_SUBSCRIBER_PAGE_MAX}")
    found = await call.services.sims.page(
        call.operator_id,
        after=call.after,
        limit=call.limit,
        matches=(lambda sim: all(test(sim) for test in tests)) if tests else None,
    )
    return page(call, await views_of(call, found.items, subscriber_view), found.next_key)


def _words(call: Call, name: str) -> set[str]:
    """Alternatives with ``|`` or commas between."""
    return {word for part in call.query_list(name) for word in part.split("|") if word}
