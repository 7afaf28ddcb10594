"""What Airloom measures about itself, declared in one table.

Rules: a metric that is not in ``Metric`` does not exist; labels are closed, small sets, never a SIM, an
address or anything else that a peer chooses; whoever measures is handed a ``Telemetry``.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

LABEL_SETS_MAX = 256
"""Label sets kept of one metric; beyond it everything is counted under ``other``."""
TABLE_SETS_MAX = 4_096
"""The same for a metric that is told by partner, whose names an operator has configured."""
OTHER = "other"

Read = Callable[[], float]
ReadTable = Callable[[], Mapping[tuple[str, ...], float]]


class Metric(Enum):
    """Every metric: name, kind, help, labels."""

    DATAGRAMS_DROPPED = (
        "airloom_datagrams_dropped", "counter",
        "Datagrams dropped, or refused by their protocol, by door and reason", ("door", "reason"),
    )  # fmt: skip
    EDGE_DATAGRAMS = (
        "airloom_edge_datagrams", "counter",
        "Datagrams of devices that the device edge served, by what became of them", ("result",),
    )  # fmt: skip
    SESSIONS_OPEN = ("airloom_sessions_open", "gauge", "Sessions open on this node", ("access",))
    GATEWAYS = (
        "airloom_gateways",
        "gauge",
        "Virtual gateways that this node could hold, by how it is with them",
        ("state",),
    )
    LEASES = (
        "airloom_leases",
        "gauge",
        "Device addresses and TEIDs that the virtual gateway has lent out",
        ("resource",),
    )
    GTP_ANSWERS = (
        "airloom_gtp_answers",
        "counter",
        "Answers to peers' requests, by partner, procedure and cause",
        ("access", "partner", "procedure", "cause"),
    )
    GTP_SESSIONS = (
        "airloom_gtp_sessions",
        "gauge",
        "Sessions of the peers of each partner",
        ("access", "partner"),
    )
    GTP_PEERS = (
        "airloom_gtp_peers",
        "gauge",
        "Peers with sessions, by partner and by whether they can be reached",
        ("access", "partner", "path"),
    )
    GTP_PATH_EVENTS = (
        "airloom_gtp_path_events",
        "counter",
        "What happened on the paths to peers",
        ("access", "event"),
    )
    GTP_CLAIMS = (
        "airloom_gtp_claims",
        "counter",
        "Sessions that another partner asked for, or that their peer may not know, and what became of them",
        ("access", "event"),
    )
    GTPU_SIGNALS = (
        "airloom_gtpu_signals",
        "counter",
        "Messages of tunnels' paths that were sent, answered, heeded or taken note of",
        ("signal",),
    )
    GTP_WAITING = ("airloom_gtp_waiting", "gauge", "Requests of peers that are being decided", ("access",))
    RESTART_COUNTER = ("airloom_restart_counter", "gauge", "What peers are told as Recovery", ("gateway",))
    ATTACHES = (
        "airloom_attaches",
        "counter",
        "Answers to attaches: accepted, or the refusal",
        ("access", "result"),
    )
    RECORDS_DELIVERED = (
        "airloom_records_delivered",
        "counter",
        "Device messages durable in the stream",
        ("protocol",),
    )
    DEAD_LETTERS = (
        "airloom_dead_letters",
        "counter",
        "Device messages that the stream will never take, kept in the object store",
        (),
    )
    RADIUS_ANSWERS = (
        "airloom_radius_answers",
        "counter",
        "What became of NASes' requests, by client: accepted or why not, recorded, quarantined, kept apart",
        ("client", "answer"),
    )
    DISCONNECTS = (
        "airloom_disconnects",
        "counter",
        "Disconnect-Requests to NASes, by how they ended",
        ("outcome",),
    )
    INSIDE_NETWORK_UP = (
        "airloom_inside_network_up",
        "gauge",
        "Whether devices are served by TCP, HTTP and MQTT beside UDP",
        (),
    )
    CONNECTIONS_OPEN = ("airloom_connections_open", "gauge", "Connections of devices, open now", ())
    CONNECTIONS = (
        "airloom_connections",
        "counter",
        "What happened to connections of devices and to their packets",
        ("event",),
    )
    TRANSITIONS_REFUSED = (
        "airloom_transitions_refused",
        "counter",
        "Events that a state machine refused, by machine and event_while_state",
        ("machine", "transition"),
    )
    EDGE_LINKS = ("airloom_edge_links", "gauge", "Edge nodes that this gateway node can reach", ())
    EDGE_LINK_PACKETS = (
        "airloom_edge_link_packets",
        "counter",
        "What happened to packets between gateway and edge nodes",
        ("event",),
    )
    EVENTS_TOLD = ("airloom_events_told", "counter", "Session events put into the stream", ())
    MESSAGES_COUNTED = (
        "airloom_messages_counted",
        "counter",
        "Device messages counted from the stream, each once",
        (),
    )
    RECORDS_PASSED_OVER = (
        "airloom_records_passed_over",
        "counter",
        "Records of the stream that are no device message: session events, and those of other producers",
        ("kind",),
    )
    LOOP_FAULTS = (
        "airloom_loop_faults",
        "counter",
        "Items and positions that a loop passed over for ever, and how often it came to stand still",
        ("loop", "fault"),
    )
    LOOPS_STANDING = (
        "airloom_loops_standing",
        "gauge",
        "Loops, or their reading of one source, that cannot go on now",
        (),
    )
    USAGE_REPORTS = ("airloom_usage_reports", "counter", "Usage reports made durable", ())
    CHORE_STEPS = (
        "airloom_chore_steps",
        "counter",
        "Steps of chores that this node did for all, by how they ended",
        ("chore", "outcome"),
    )
    DAYS_FOLDED = ("airloom_days_folded", "counter", "Days of usage folded, each of one IMSI", ())
    FOLD_DAYS_BEHIND = (
        "airloom_fold_days_behind",
        "gauge",
        "Days that were due to be folded and were not, when this node last looked",
        (),
    )
    MONTHS_CLOSED = (
        "airloom_months_closed",
        "counter",
        "Months of operators that this node closed for ever",
        (),
    )
    CLOSING_MONTHS_BEHIND = (
        "airloom_closing_months_behind",
        "gauge",
        "Months that were due to be closed and were not, when this node last looked",
        (),
    )
    LATE_USAGE_BYTES = (
        "airloom_late_usage_bytes",
        "gauge",
        "Bytes that came after their month was closed and are in no bill, when this node last looked",
        (),
    )
    API_REQUESTS = (
        "airloom_api_requests",
        "counter",
        "API answers, by operation and status",
        ("operation", "status"),
    )

    GUESSES_STOPPED = (
        "airloom_guesses_stopped",
        "counter",
        "Tries of a credential or secret that were refused unseen, after too many wrong ones",
        ("what",),
    )
    HTTP_CONNECTIONS = ("airloom_http_connections", "gauge", "Connections to a listener", ("listener",))
    HTTP_FAULTS = (
        "airloom_http_faults",
        "counter",
        "Connections and requests to a listener that were refused or cut off, by reason",
        ("listener", "reason"),
    )

    def __init__(self, metric_name: str, kind: str, help_text: str, labels: tuple[str, ...]) -> None:
        self.metric_name = metric_name
        self.kind = kind
        self.help_text = help_text
        self.labels = labels


class Telemetry(Collector):
    """The values of every metric of one process, registered in a registry of its own."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._counted: dict[Metric, dict[tuple[str, ...], float]] = {metric: {} for metric in Metric}
        self._tables: list[tuple[Metric, tuple[str, ...], Callable[[], Mapping[str, float]]]] = []
        self._wide: list[tuple[Metric, ReadTable]] = []
        self._watched: dict[Metric, dict[tuple[str, ...], Read]] = {metric: {} for metric in Metric}
        registry.register(self)

    def count(self, metric: Metric, by: float = 1, /, **labels: str) -> None:
        """Raise a counter. A wrong set of labels is a bug: ``KeyError``."""
        values = self._counted[metric]
        key = _key(metric, labels)
        if key not in values and len(values) >= LABEL_SETS_MAX:
            key = (OTHER,) * len(key)
        values[key] = values.get(key, 0) + by

    def watch(self, metric: Metric, read: Read, /, **labels: str) -> None:
        """Ask for the value when it is scraped: for gauges, and for what a hot path counts by itself."""
        self._watched[metric][_key(metric, labels)] = read

    def watch_each(self, metric: Metric, read: Callable[[], Mapping[str, float]], /, **labels: str) -> None:
        """The same for a table that grows by itself: its keys are the metric's last label."""
        self._tables.append((metric, tuple(labels[name] for name in metric.labels[:-1]), read))

    def watch_table(self, metric: Metric, read: ReadTable, /) -> None:
        """The same for a table whose keys are all the metric's labels; what is too much is ``other``."""
        self._wide.append((metric, read))

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Every metric, also those that have not moved yet (prometheus_client's collector)."""
        for metric in Metric:
            family_type = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
            family = family_type(metric.metric_name, metric.help_text, labels=metric.labels)
            watched = {key: read() for key, read in self._watched[metric].items()}
            for wanted, labels, table in self._tables:
                if wanted is metric:
                    watched |= {
                        (*labels, key): value for key, value in sorted(table().items())[:LABEL_SETS_MAX]
                    }
            for wide, read_table in self._wide:
                if wide is metric:
                    watched |= _bounded(read_table(), len(metric.labels))
            for key, value in sorted((self._counted[metric] | watched).items()):
                family.add_metric(list(key), value)
            yield family

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4, for ``/metrics``."""
        return generate_latest(self._registry)


def _bounded(table: Mapping[tuple[str, ...], float], labels: int) -> Mapping[tuple[str, ...], float]:
    kept = sorted(table.items())
    if len(kept) <= TABLE_SETS_MAX:
        return dict(kept)
    rest = sum(value for _, value in kept[TABLE_SETS_MAX:])
    return dict(kept[:TABLE_SETS_MAX]) | {(OTHER,) * labels: rest}


def _key(metric: Metric, labels: dict[str, str]) -> tuple[str, ...]:
    if labels.keys() != set(metric.labels):
        raise KeyError(f"{metric.metric_name} has the labels {metric.labels}, not {tuple(labels)}")
    return tuple(labels[label] for label in metric.labels)
