"""The table of metrics and its one rendering."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from core.telemetry import LABEL_SETS_MAX, OTHER, TABLE_SETS_MAX, Metric, Telemetry


def _values(telemetry: Telemetry) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(telemetry.render().decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("metric", Metric)
def test_every_metric_moves(metric: Metric) -> None:
    telemetry = Telemetry(registry=CollectorRegistry())
    labels = {label: "x" for label in metric.labels}
    telemetry.count(metric, **labels)
    telemetry.count(metric, 2, **labels)
    name = metric.metric_name + ("_total" if metric.kind == "counter" else "")
    assert _values(telemetry)[name, tuple("x" for _ in metric.labels)] == 3


def test_a_watched_value_is_read_when_it_is_rendered() -> None:
    telemetry = Telemetry(registry=CollectorRegistry())
    open_sessions = ["a"]
    telemetry.watch(Metric.SESSIONS_OPEN, lambda: len(open_sessions), access="gtpv1")
    open_sessions.append("b")
    assert _values(telemetry)["airloom_sessions_open", ("gtpv1",)] == 2


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(KeyError, match="airloom_attaches has the labels"):
        Telemetry(registry=CollectorRegistry()).count(Metric.ATTACHES, imsi="001010000000001")


def test_label_sets_are_bounded() -> None:
    telemetry = Telemetry(registry=CollectorRegistry())
    for number in range(LABEL_SETS_MAX + 10):
        telemetry.count(Metric.RECORDS_DELIVERED, protocol=str(number))
    values = _values(telemetry)
    assert len(values) == LABEL_SETS_MAX + 1
    assert values["airloom_records_delivered_total", (OTHER,)] == 10


def test_a_table_by_partner_is_bounded_and_nothing_of_it_is_lost() -> None:
    telemetry = Telemetry(registry=CollectorRegistry())
    table: dict[tuple[str, ...], float] = {
        ("gtpv1", f"partner-{number:05}"): 2.0 for number in range(TABLE_SETS_MAX + 10)
    }
    telemetry.watch_table(Metric.GTP_SESSIONS, lambda: table)
    values = _values(telemetry)
    assert len(values) == TABLE_SETS_MAX + 1
    assert values["airloom_gtp_sessions", (OTHER, OTHER)] == 20


def test_no_metric_is_kept_per_sim_or_peer() -> None:
    forbidden = {"imsi", "sim_id", "iccid", "session_id", "peer", "address", "operator_id"}
    assert not {label for metric in Metric for label in metric.labels} & forbidden


def test_two_processes_worth_of_telemetry_do_not_share_anything() -> None:
    first, second = (Telemetry(registry=CollectorRegistry()) for _ in range(2))
    first.count(Metric.USAGE_REPORTS)
    assert _values(second) == {}
