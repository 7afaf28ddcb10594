"""What a load test measures and how it is judged, and its page."""

import argparse
import random
from html.parser import HTMLParser

import pytest

from loadtest import load
from loadtest.load import ACCESSES, PROTOCOLS, main
from loadtest.measure import BUCKET_GROWTH, Histogram, Step, Threshold
from loadtest.report import COLOURS, as_lines, as_page, plot, shown


def test_percentiles_are_right_within_a_bucket() -> None:
    dice, histogram = random.Random(1), Histogram()
    values = [dice.expovariate(100) + 1e-4 for _ in range(20_000)]
    for value in values:
        histogram.add(value)
    values.sort()
    for percent in (1, 50, 90, 99, 99.9, 100):
        exact = values[max(0, -(-len(values) * percent // 100).__int__() - 1)]
        assert exact <= histogram.percentile(percent) * 1.0001 <= exact * BUCKET_GROWTH * 1.001
    assert histogram.mean_s == pytest.approx(sum(values) / len(values))
    assert (histogram.min_s, histogram.max_s) == (values[0], values[-1])
    assert len(histogram._buckets) < 700, "memory does not grow with the load"
    assert Histogram().percentile(99) == 0


def step(name: str, latencies: list[float], errors: int = 0) -> Step:
    made = Step(name)
    for number, latency in enumerate(latencies):
        made.done(number, latency)
    for _ in range(errors):
        made.failed(1)
    made.asked_s = 10.0
    return made


@pytest.mark.parametrize(("text", "holds"), [
    ("attach.p99<50ms", True),
    ("attach.p99 < 29ms", False),
    ("attach.max<=30ms", True),
    ("attach.max<30ms", False),
    ("attach.gtpv1.avg<11ms", True),
    ("attach.errors<=10%", True),
    ("attach.errors<0.05", False),
    ("attach.count>=10", False),
    ("attach.rate>0.5", True),
    ("message.p50<1s", False),
])  # fmt: skip
def test_thresholds(text: str, holds: bool) -> None:
    steps = [
        step("attach.gtpv1", [0.01] * 9, errors=1),
        step("attach.gtpv2", [0.03] * 9),
        Step("message.udp"),
    ]
    assert Threshold.of(text).holds(steps) is holds


def test_a_rate_is_over_the_time_in_which_its_step_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("loadtest.load.time.monotonic", lambda: now_s)
    run = load.Run(argparse.Namespace(), load.Target("", "", "", ""))
    for names, name, count, lasting_s in (
        (("attach",), "attach.gtpv2", 20, 4.0),
        (("message", "reconnect", "report"), "message.udp", 50, 10.0),
        (("detach",), "detach", 20, 2.0),
    ):
        with run._asking_for(*names):
            for _ in range(count):
                run.steps[name].done(run.elapsed_s, 0.1)
            now_s += lasting_s
        now_s += 3.0
    assert [run.steps[name].value("rate") for name in ("attach.gtpv2", "message.udp", "detach")] == [5, 5, 10]


@pytest.mark.parametrize("text", ["attach<5", "attach.p99=5", "attach.p99<fast", "attach.speed<5", ""])
def test_what_is_no_threshold_says_so(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="not a"):
        Threshold.of(text)
    with pytest.raises(SystemExit) as ended:
        main(["--threshold", text])
    assert ended.value.code == 2
    assert "--threshold" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [
    ["--mix", "smtp=1"], ["--mix", "mqtt=x"], ["--access", "gtpv1=0"], ["--sims", "0"], ["--sims", "many"],
])  # fmt: skip
def test_an_argument_that_cannot_be_names_itself(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_durations_as_people_read_them() -> None:
    assert [shown(value) for value in (0.0000042, 0.0123, 2.5)] == ["4.2 us", "12.3 ms", "2.5 s"]


class Counter(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_report_tells_the_same_in_lines_and_on_a_page() -> None:
    steps = [step("attach.gtpv1", [0.01, 0.02], errors=1), Step("message.mqtt")]
    thresholds = [Threshold.of("attach.p99<50ms"), Threshold.of("attach.errors<=0%")]
    lines = as_lines(steps, thresholds)
    assert len(lines) == 4, "what was not tried is not shown"
    assert lines[2].startswith("kept")
    assert lines[3].startswith("MISSED")
    page = as_page(steps, 2.0, thresholds, [("SIMs", "<2>")])
    counter = Counter()
    counter.feed(page)
    assert (counter.tags.count("svg"), counter.tags.count("tr")) == (3, 4)
    assert "&lt;2&gt;" in page
    assert page.count("attach.p99&lt;50ms</text>") == 1, "the bound is drawn where the percentiles are"
    assert "http" not in page, "it needs nothing else"


def test_a_plot_has_a_gap_where_nothing_was_measured_and_a_dot_where_one_second_was() -> None:
    drawn = plot("ms", {"one": [1.0, 2.0, None, 3.0, None, 4.0, 5.0]}, 6)
    assert (drawn.count("<polyline"), drawn.count("<circle")) == (2, 1)


def test_each_step_of_a_load_test_has_a_colour_of_its_own() -> None:
    steps = len(ACCESSES) + len(PROTOCOLS) + len(("reconnect", "report.radius", "detach"))
    assert len(set(COLOURS)) >= steps


@pytest.mark.parametrize(("top", "apart"), [(1, 0.5), (4, 1), (4.1, 2), (20, 5), (7e4, 20_000), (0.03, 0.01)])
def test_an_axis_is_divided_by_round_numbers(top: float, apart: float) -> None:
    drawn = plot("n", {"one": [top]}, 1)
    assert f">{apart:,.10g}</text>" in drawn
