"""Operations of Group."""

from aiohttp import web

from api.calls import Call, answer, nothing, page
from api.models import PARAMETER_UPDATES, TAG_UPDATES, CreateGroupRequest
from api.sims import views_of
from api.tag_filters import tag_filter
from api.views import group_view


async def create_group(call: Call) -> web.Response:
    """With configuration and tags, or without."""
    body = await call.body(CreateGroupRequest)
    group = await call.services.groups.create(
        call.operator_id, configuration=body.configuration or {}, tags=body.tags or {}
    )
    return answer(group_view(group), 201)


async def list_groups(call: Call) -> web.Response:
    """By id, in pages."""
    tagged = tag_filter(call)
    found = await call.services.groups.page(
        call.operator_id,
        after=call.after,
        limit=call.limit,
        matches=(lambda group: tagged(group.tags)) if tagged else None,
    )
    return page(call, [group_view(group) for group in found.items], found.next_key)


async def get_group(call: Call) -> web.Response:
    """The group, with its configuration."""
    return answer(group_view(await call.services.groups.get(call.operator_id, call.path("group_id"))))


async def delete_group(call: Call) -> web.Response:
    """One; SIMs are not touched."""
    await call.services.groups.delete(call.operator_id, call.path("group_id"))
    return nothing()


async def list_subscribers_in_group(call: Call) -> web.Response:
    """The SIMs of a group, in pages."""
    group = await call.services.groups.get(call.operator_id, call.path("group_id"))
    found = await call.services.sims.page(
        call.operator_id,
        after=call.after,
        limit=call.limit,
        matches=lambda sim: sim.group_id == group.group_id,
    )
    return page(call, await views_of(call, found.items), found.next_key)


async def put_group_tags(call: Call) -> web.Response:
    """Add and replace."""
    tags = {update.tagName: update.tagValue for update in await call.body_list(TAG_UPDATES)}
    groups = call.services.groups
    return answer(group_view(await groups.put_tags(call.operator_id, call.path("group_id"), tags)))


async def delete_group_tag(call: Call) -> web.Response:
    """Remove a tag; 404 if the group does not have it."""
    groups = call.services.groups
    await groups.delete_tag(call.operator_id, call.path("group_id"), call.path("tag_name"))
    return nothing()


async def put_configuration_parameters(call: Call) -> web.Response:
    """Set keys of one namespace."""
    values = {update.key: update.value for update in await call.body_list(PARAMETER_UPDATES)}
    group = await call.services.groups.put_configuration(
        call.operator_id, call.path("group_id"), call.path("namespace"), values
    )
    return answer(group_view(group))


async def delete_configuration_parameter(call: Call) -> web.Response:
    """One key of one namespace."""
    await call.services.groups.delete_configuration(
        call.operator_id, call.path("group_id"), call.path("namespace"), call.path("name")
    )
    return nothing()


async def delete_configuration_namespace(call: Call) -> web.Response:
    """All of one namespace."""
    await call.services.groups.delete_configuration(
        call.operator_id, call.path("group_id"), call.path("namespace")
    )
    return nothing()
