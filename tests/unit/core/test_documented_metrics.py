"""The names and labels of metrics in the documents are those that ``/metrics`` has."""

import re
from pathlib import Path

import pytest

from core.telemetry import Metric

DOCS = Path(__file__).parents[3] / "docs"
NAMED = re.compile(r"\b(airloom_[a-z_]+)(?:\{([^}`]*)\})?")
LABELS = {
    metric.metric_name + ("_total" if metric.kind == "counter" else ""): set(metric.labels)
    for metric in Metric
}
"""Of each metric as it is exposed: Prometheus' client adds ``_total`` to counters."""


@pytest.mark.parametrize(
    "page", sorted(set(DOCS.glob("*.md")) - {DOCS / "upgrading.md"}), ids=lambda page: page.name
)
def test_a_document_names_metrics_that_are_exposed(page: Path) -> None:
    for name, labels in NAMED.findall(page.read_text()):
        assert name in LABELS, name
        assert {label.partition("=")[0].strip() for label in labels.split(",") if label} <= LABELS[name], name
