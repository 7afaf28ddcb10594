"""Operations of Billing and Files: bills, their CSV, and the way to it.

Rules: months are UTC; the present one is computed at each call and is ``temporary``. There are bills of the
last 18 months, from the operator's first one to the present one. Files are served by this API itself, so that
no client sends its token to another host.
"""

from enum import Enum

from aiohttp import web

from api.calls import Call, answer
from api.views import bill_view, daily_bill_view, latest_bill_view
from core.domain.months import month_after, month_of, months_between
from core.domain.reasons import RequestRefusal
from core.errors import Refused

MONTHS_MAX = 18


class ExportMode(Enum):
    """Whether an export is answered with the link, or with an id to ask for it."""

    ASYNC = "async"
    SYNC = "sync"


async def get_billing_history(call: Call) -> web.Response:
    """The months that are over, oldest first."""
    first, present = await _span(call)
    months = [month_after(first, by) for by in range(months_between(first, present))]
    bills = [await call.services.billing.bill(call.operator_id, month) for month in months]
    return answer({"billList": [bill_view(bill) for bill in bills]})


async def get_latest_billing(call: Call) -> web.Response:
    """The present month so far."""
    bill = await call.services.billing.bill(call.operator_id, _present(call))
    return answer(latest_bill_view(bill))


async def get_billing(call: Call) -> web.Response:
    """One month."""
    return answer(bill_view(await call.services.billing.bill(call.operator_id, await _month(call))))


async def get_billing_per_day(call: Call) -> web.Response:
    """The days of one month that cost something."""
    days = await call.services.billing.daily(call.operator_id, await _month(call))
    return answer({"billList": [daily_bill_view(day) for day in days]})


async def export_billing(call: Call) -> web.Response:
    """One month as CSV."""
    return await _export(call, await _month(call))


async def export_latest_billing(call: Call) -> web.Response:
    """The present month as CSV."""
    return await _export(call, _present(call))


async def _export(call: Call, month: int) -> web.Response:
    mode = call.query_choice("export_mode", ExportMode, ExportMode.ASYNC)
    key = await call.services.billing.export(call.operator_id, month)
    if mode is ExportMode.SYNC:
        return answer({"url": _url(call, key)})
    export_id = call.services.exports.export_id(call.operator_id, key)
    return answer({"exportedFileId": export_id, "exportedFilePath": key})


async def get_exported_file(call: Call) -> web.Response:
    """A new link to what an asynchronous export wrote."""
    key = call.services.exports.key_of_export(call.operator_id, call.path("exported_file_id"))
    return answer({"status": "exported", "url": _url(call, key)})


async def download(call: Call) -> web.Response:
    """The file behind a link; the link is the permission."""
    content = await call.services.exports.fetch(call.path("link"))
    headers = {"Content-Disposition": 'attachment; filename="export.csv"', "Cache-Control": "private"}
    return web.Response(body=content, content_type="text/csv", charset="utf-8", headers=headers)


def _url(call: Call, key: str) -> str:
    return f"{call.origin}/v1/downloads/{call.services.exports.link(call.operator_id, key)}"


def _present(call: Call) -> int:
    return month_of(call.services.clock.now())


async def _span(call: Call) -> tuple[int, int]:
    """The first month with a bill, and the present one."""
    operator = await call.services.identity.operator(call.operator_id)
    present = _present(call)
    return max(month_of(operator.created), month_after(present, -MONTHS_MAX)), present


async def _month(call: Call) -> int:
    """``{yyyyMM}``, of a month with a bill; raises ``Refused``."""
    text = call.path("yyyyMM")
    if not (len(text) == 6 and text.isascii() and text.isdigit() and 1 <= int(text[4:]) <= 12):
        raise Refused(RequestRefusal.INVALID_FIELD, "yyyyMM: must be a year and a month, as 202601")
    first, present = await _span(call)
    if not first <= int(text) <= present:
        raise Refused(RequestRefusal.NOT_FOUND, "No bill of this month found.")
    return int(text)
