"""Reports: lines for a terminal, and one HTML page with plots that needs nothing else."""

import html
from collections.abc import Callable, Mapping, Sequence

from loadtest.measure import PERCENTILES, Step, Threshold

_ValueOf = Callable[[Step, int], float]

WIDTH, HEIGHT, MARGIN = 720, 180, 44
COLOURS = ("#0b6e99", "#c1440e", "#4a7c2c", "#7a4ea3", "#a67c00", "#3d3d3d")
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 780px; margin: 2em auto; color: #222; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2em .8em; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }} tr + tr td {{ border-top: 1px solid #ddd; }}
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


def columns(step: Step, elapsed_s: float) -> list[str]:
    """One step's figures, as text."""
    return [
        step.name,
        str(step.latencies.count),
        f"{step.value('rate', elapsed_s):.1f}/s",
        str(step.errors),
        shown(step.latencies.mean_s),
        *(shown(step.latencies.percentile(percent)) for percent in PERCENTILES),
        shown(step.latencies.max_s),
    ]


HEADINGS = ("step", "done", "rate", "errors", "avg", *(f"p{percent}" for percent in PERCENTILES), "max")


def as_lines(steps: Sequence[Step], elapsed_s: float, thresholds: Sequence[Threshold]) -> list[str]:
    """For a terminal."""
    rows = [list(HEADINGS), *(columns(step, elapsed_s) for step in steps if step.tried)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    for threshold in thresholds:
        mark = "kept  " if threshold.holds(steps, elapsed_s) else "MISSED"
        lines.append(f"{mark}  {threshold.text}")
    return lines


def as_page(steps: Sequence[Step], elapsed_s: float, thresholds: Sequence[Threshold], summary: str) -> str:
    """For a browser."""
    tried = [step for step in steps if step.tried]
    table = table_of([list(HEADINGS), *(columns(step, elapsed_s) for step in tried)])
    kept = "".join(_threshold(threshold, tried, elapsed_s) for threshold in thresholds)
    plots = [
        _plot("done per second", tried, elapsed_s, lambda step, n: float(step.seconds[n].done)),
        _plot(
            "99th percentile, ms", tried, elapsed_s,
            lambda step, n: step.seconds[n].latencies.percentile(99) * 1e3,
        ),
        _plot("errors per second", tried, elapsed_s, lambda step, n: float(step.seconds[n].errors)),
    ]  # fmt: skip
    return page("Airloom load test", [f"<p>{html.escape(summary)}</p>", table, f"<ul>{kept}</ul>", *plots])


def _threshold(threshold: Threshold, steps: Sequence[Step], elapsed_s: float) -> str:
    name = "good" if threshold.holds(steps, elapsed_s) else "bad"
    word = "kept" if name == "good" else "missed"
    return f'<li class="{name}">{word}: {html.escape(threshold.text)}</li>'


def _plot(title: str, steps: Sequence[Step], elapsed_s: float, value_of: _ValueOf) -> str:
    """A line for each step over the seconds of the run."""
    last = max(1, int(elapsed_s))
    series = {
        step.name: [value_of(step, n) if n in step.seconds else 0.0 for n in range(last + 1)]
        for step in steps
    }
    return plot(title, series, last)


def plot(title: str, series: Mapping[str, Sequence[float]], last: int) -> str:
    """A line for each series, a value for each second from 0 to ``last``."""
    top = max((value for values in series.values() for value in values), default=0.0) or 1.0
    lines, legend = [], []
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{MARGIN + (WIDTH - MARGIN) * n / last:.1f},{HEIGHT - 20 - (HEIGHT - 40) * value / top:.1f}"
            for n, value in enumerate(values)
        )
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
        legend.append(f'<span style="color:{colour}">&#9632; {html.escape(name)}</span>')
    axes = (
        f'<line x1="{MARGIN}" y1="{HEIGHT - 20}" x2="{WIDTH}" y2="{HEIGHT - 20}" stroke="#aaa"/>'
        f'<text x="0" y="26">{top:.4g}</text><text x="0" y="{HEIGHT - 18}">0</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 4}">0 s</text>'
        f'<text x="{WIDTH - 40}" y="{HEIGHT - 4}">{last} s</text>'
    )
    return (
        f"<h2>{title}</h2><p>{' '.join(legend)}</p>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{axes}{"".join(lines)}</svg>'
    )
