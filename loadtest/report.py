"""Reports: lines for a terminal, and one HTML page with plots that needs nothing else."""

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from loadtest.measure import PERCENTILES, Step, Threshold

_ValueOf = Callable[[Step, int], float | None]

WIDTH, HEIGHT, MARGIN = 720, 200, 56
TICKS = 4
"""Steps of the vertical axis."""
COLOURS = (
    "#0b6e99", "#c1440e", "#4a7c2c", "#7a4ea3", "#a67c00",
    "#3d3d3d", "#d6568c", "#00897b", "#5c6bc0", "#8d6e63",
)  # fmt: skip
"""As many as a load test has steps."""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; color: #222; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2em .8em; text-align: right;
  white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }} tr + tr td {{ border-top: 1px solid #ddd; }}
table:first-of-type td {{ text-align: left; }} span {{ white-space: nowrap; }}
.good {{ color: #2c6e2c; }} .bad {{ color: #b00020; }} svg text {{ font-size: 11px; fill: #555; }}
</style>
<h1>{title}</h1>
{parts}
</html>
"""


def page(title: str, parts: Sequence[str]) -> str:
    """One page from parts that are HTML already."""
    return _PAGE.format(title=html.escape(title), parts="\n".join(parts))


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its headings."""
    lines = []
    for number, row in enumerate(rows):
        cell = "td" if number else "th"
        lines.append("".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in row))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def shown(seconds: float) -> str:
    """A duration as people read it."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def columns(step: Step) -> list[str]:
    """One step's figures, as text."""
    return [
        step.name,
        str(step.latencies.count),
        f"{step.value('rate'):.1f}/s",
        str(step.errors),
        shown(step.latencies.mean_s),
        *(shown(step.latencies.percentile(percent)) for percent in PERCENTILES),
        shown(step.latencies.max_s),
    ]


HEADINGS = ("step", "done", "rate", "errors", "avg", *(f"p{percent}" for percent in PERCENTILES), "max")


def as_lines(steps: Sequence[Step], thresholds: Sequence[Threshold]) -> list[str]:
    """For a terminal."""
    rows = [list(HEADINGS), *(columns(step) for step in steps if step.tried)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    for threshold in thresholds:
        mark = "kept  " if threshold.holds(steps) else "MISSED"
        lines.append(f"{mark}  {threshold.text}")
    return lines


def as_page(
    steps: Sequence[Step],
    elapsed_s: float,
    thresholds: Sequence[Threshold],
    facts: Sequence[tuple[str, str]],
) -> str:
    """For a browser. ``facts`` say what was measured: name and value."""
    tried = [step for step in steps if step.tried]
    table = table_of([list(HEADINGS), *(columns(step) for step in tried)])
    kept = "".join(_threshold(threshold, tried) for threshold in thresholds)
    p99 = {each.text: each.bound * 1e3 for each in thresholds if each.figure == "p99"}
    plots = [
        _plot("done per second", tried, elapsed_s, lambda step, n: step.seconds[n].done, empty=0.0),
        _plot("99th percentile of each second, ms", tried, elapsed_s, _p99_ms, bounds=p99),
        _plot(
            "errors per second", tried, elapsed_s, lambda step, n: float(step.seconds[n].errors), empty=0.0
        ),
    ]
    about = table_of([("about this run", ""), *facts])
    return page("Airloom load test", [about, "<h2>figures</h2>", table, f"<ul>{kept}</ul>", *plots])


def _p99_ms(step: Step, second: int) -> float | None:
    latencies = step.seconds[second].latencies
    return latencies.percentile(99) * 1e3 if latencies.count else None


def _threshold(threshold: Threshold, steps: Sequence[Step]) -> str:
    name = "good" if threshold.holds(steps) else "bad"
    word = "kept" if name == "good" else "missed"
    return f'<li class="{name}">{word}: {html.escape(threshold.text)}</li>'


def _plot(
    title: str,
    steps: Sequence[Step],
    elapsed_s: float,
    value_of: _ValueOf,
    *,
    empty: float | None = None,
    bounds: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """A line for each step over the seconds of the run; ``empty`` stands where a second has nothing."""
    last = max(1, int(elapsed_s))
    series = {
        step.name: [value_of(step, n) if n in step.seconds else empty for n in range(last + 1)]
        for step in steps
    }
    return plot(title, {name: values for name, values in series.items() if any(values)}, last, bounds=bounds)


def plot(
    title: str,
    series: Mapping[str, Sequence[float | None]],
    last: int,
    *,
    bounds: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """A line for each series, a value for each second from 0 to ``last``; a gap where it is ``None``.
    ``bounds`` are drawn across.
    """
    known = [value for values in series.values() for value in values if value is not None]
    step = _tick_of(max([*known, *bounds.values()], default=0.0) or 1.0)
    top = step * TICKS
    lines, legend = [], []
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        lines += [_line(run, colour, last, top) for run in _runs(values)]
        legend.append(f'<span style="color:{colour}">&#9632; {html.escape(name)}</span>')
    for name, bound in bounds.items():
        y = _y(bound, top)
        lines.append(
            f'<line x1="{MARGIN}" y1="{y}" x2="{WIDTH}" y2="{y}" stroke="#b00020" stroke-dasharray="6 4"/>'
            f'<text x="{MARGIN + 4}" y="{y - 3:.1f}" fill="#b00020">{html.escape(name)}</text>'
        )
    drawing = "".join([*_axes(step, last, top), *lines])
    return (
        f"<h2>{html.escape(title)}</h2><p>{' '.join(legend)}</p>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{drawing}</svg>'
    )


def _axes(step: float, last: int, top: float) -> Iterator[str]:
    for tick in range(TICKS + 1):
        y = _y(tick * step, top)
        yield f'<line x1="{MARGIN}" y1="{y}" x2="{WIDTH}" y2="{y}" stroke="#e4e4e4"/>'
        yield f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{tick * step:,.10g}</text>'
    apart = max(1, math.ceil(_tick_of(last)))
    for second in range(0, last + 1, apart):
        yield f'<text x="{_x(second, last)}" y="{HEIGHT - 4}" text-anchor="middle">{second} s</text>'


def _tick_of(top: float) -> float:
    """The round step by which ``TICKS`` steps reach ``top``: 1, 2 or 5 of a power of ten."""
    power = 10.0 ** math.floor(math.log10(top / TICKS))
    return next(power * nice for nice in (1, 2, 5, 10) if power * nice * TICKS >= top * 0.999_999)


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """What stands without a gap: seconds and values."""
    run: list[tuple[int, float]] = []
    for second, value in enumerate([*values, None]):
        if value is not None:
            run.append((second, value))
        elif run:
            yield run
            run = []


def _line(run: Sequence[tuple[int, float]], colour: str, last: int, top: float) -> str:
    points = [(_x(second, last), _y(value, top)) for second, value in run]
    if len(points) == 1:
        return f'<circle cx="{points[0][0]}" cy="{points[0][1]}" r="2" fill="{colour}"/>'
    drawn = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{drawn}"/>'


def _x(second: float, last: int) -> float:
    return round(MARGIN + (WIDTH - MARGIN - 16) * second / last, 1)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - 20 - (HEIGHT - 34) * value / top, 1)
