"""Groups of SIMs and their configuration.

Rules: an operator sees its own groups only; the whole configuration is at most 8 KB as JSON and holds
nothing that JSON cannot say; what has no effect is refused when it is set (``core.domain.group_settings``),
and what is stored stays readable and can be removed. A change that concerns open sessions is durable first,
then gateways are notified; repeating the call notifies them again.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from core.domain.account import Group
from core.domain.group_settings import AIR, NAMESPACES, problem
from core.domain.ids import time_ordered_id
from core.domain.reasons import RequestRefusal
from core.domain.values import replace
from core.errors import Refused, StaleVersion, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.sessions import SessionControl
from core.ports.store import Page, Store
from core.services.customers.filtered import filtered_page
from core.services.customers.tags import check_tags

CONFIGURATION_BYTES_MAX = 8_192
CHANGE_TRIES_MAX = 16

Configuration = Mapping[str, Mapping[str, Any]]


class Groups:
    """A customer's verbs on groups."""

    def __init__(self, *, store: Store, control: SessionControl, clock: Clock, entropy: Entropy) -> None:
        self._store = store
        self._control = control
        self._clock = clock
        self._entropy = entropy

    async def create(
        self, operator_id: str, *, configuration: Configuration, tags: Mapping[str, str]
    ) -> Group:
        """A new group."""
        now = self._clock.now()
        group = Group(
            group_id=time_ordered_id(now, self._entropy.random_bytes(10)),
            operator_id=operator_id,
            created=now,
            modified=now,
            configuration=configuration,
            tags=tags,
        )
        _check(group)
        for namespace, values in configuration.items():
            _check_settings(namespace, values, values)
        return await self._store.groups.put(group)

    async def get(self, operator_id: str, group_id: str) -> Group:
        """One group of the operator's."""
        group = await self._store.groups.get(operator_id, group_id)
        if group is None:
            raise Refused(RequestRefusal.NOT_FOUND, "No such group found.")
        return group

    async def page(
        self,
        operator_id: str,
        *,
        after: str = "",
        limit: int = 100,
        matches: Callable[[Group], bool] | None = None,
    ) -> Page[Group]:
        """The operator's groups by id; with ``matches`` only those, and a page may then be short."""
        return await filtered_page(
            partial(self._store.groups.of_operator, operator_id),
            matches,
            key_of=lambda group: group.group_id,
            after=after,
            limit=limit,
        )

    async def delete(self, operator_id: str, group_id: str) -> None:
        """Remove a group; its SIMs keep naming it until they are given another or none."""
        await self.get(operator_id, group_id)
        await self._store.groups.delete(operator_id, group_id)
        await self._control.group_changed(operator_id, group_id)

    async def put_tags(self, operator_id: str, group_id: str, tags: Mapping[str, str]) -> Group:
        """Add tags, or replace those of the same names."""
        return await self._change(operator_id, group_id, lambda g: replace(g, tags={**g.tags, **tags}))

    async def delete_tag(self, operator_id: str, group_id: str, name: str) -> Group:
        """Remove a tag that is there."""

        def changed(group: Group) -> Group:
            return replace(group, tags=_without(group.tags, name, "tag"))

        return await self._change(operator_id, group_id, changed)

    async def put_configuration(
        self, operator_id: str, group_id: str, namespace: str, values: Mapping[str, Any]
    ) -> Group:
        """Set keys of one namespace."""

        def changed(group: Group) -> Group:
            merged = {**group.configuration.get(namespace, {}), **values}
            _check_settings(namespace, values, merged)
            return replace(group, configuration={**group.configuration, namespace: merged})

        return await self._configure(operator_id, group_id, namespace, changed)

    async def delete_configuration(
        self, operator_id: str, group_id: str, namespace: str, key: str | None = None
    ) -> Group:
        """Remove one key of a namespace, or with ``None`` all of it."""

        def changed(group: Group) -> Group:
            configuration = _without(group.configuration, namespace, "namespace")
            if key is not None:
                left = _without(group.configuration[namespace], key, "parameter")
                configuration = {**configuration, namespace: left}
            return replace(group, configuration=configuration)

        return await self._configure(operator_id, group_id, namespace, changed)

    async def _configure(
        self, operator_id: str, group_id: str, namespace: str, change: Callable[[Group], Group]
    ) -> Group:
        group = await self._change(operator_id, group_id, change)
        if namespace == AIR:  # what open sessions go by (``core.domain.subscriber_policy``)
            await self._control.group_changed(operator_id, group_id)
        return group

    async def _change(self, operator_id: str, group_id: str, change: Callable[[Group], Group]) -> Group:
        for _ in range(CHANGE_TRIES_MAX):
            wanted = change(await self.get(operator_id, group_id))
            _check(wanted)
            try:
                return await self._store.groups.put(replace(wanted, modified=self._clock.now()))
            except StaleVersion:
                continue
        raise Unavailable(f"group {group_id}: concurrent updates; try again")


def _without(values: Mapping[str, Any], key: str, noun: str) -> dict[str, Any]:
    if key not in values:
        raise Refused(RequestRefusal.NOT_FOUND, f"No such {noun} found.")
    return {k: v for k, v in values.items() if k != key}


def _check_settings(namespace: str, values: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    if wrong := problem(namespace, values, merged):
        raise Refused(RequestRefusal.INVALID_FIELD, wrong)


def _check(group: Group) -> None:
    check_tags(group.tags)
    unknown = set(group.configuration) - NAMESPACES
    if unknown:
        raise Refused(RequestRefusal.INVALID_FIELD, "configuration: no such namespace")
    try:
        size = len(msgspec.json.encode(group.configuration))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(RequestRefusal.INVALID_FIELD, "configuration: value is not valid JSON") from error
    if size > CONFIGURATION_BYTES_MAX:
        raise Refused(
            RequestRefusal.LIMIT_REACHED, f"configuration: more than {CONFIGURATION_BYTES_MAX} bytes"
        )
