"""What Prometheus reads: counts of what the agent did, and gauges of what the board says at the scrape.

The number of series does not grow with time or with hostile input (law 9): every label is from a closed
set but a model's name, which only gauges carry, for as long as the model is there, and at most
`MODELS_SHOWN` of them; the rest is summed up under `other`. No global registry.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from agent import __version__
from agent.core.actions import Cancelled, Failed, Fetch, Load, Outcome, Succeeded, Unload
from agent.core.model import ModelName
from agent.core.status import ModelStatus, Phase
from agent.core.uri import BUILT_IN_SCHEMES, scheme_of
from agent.telemetry.board import Board

MODELS_SHOWN = 500
OTHER = "other"
SCHEMES = frozenset({*BUILT_IN_SCHEMES, "webhdfs", "hdfs"})
WATCH_MODES = ("inotify", "watchfiles", "poll")
SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1200.0)
PLAN_SECONDS = (0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Tally:
    """Counts and sums under label values."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._sums: Counter[tuple[str, ...]] = Counter()

    def begin(self, *labels: str) -> None:
        """Show nought under *labels*: the first count is then a rise, which a rate can see."""
        self._sums.setdefault(labels, 0)

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add *amount* under *labels*."""
        self._sums[labels] += amount  # type: ignore[assignment]

    def family(self) -> Metric:
        """Return the counts as they are."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, amount in sorted(self._sums.items()):
            family.add_metric(labels, amount)
        return family


class Spread:
    """How long things took, in buckets, under label values."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._seen: dict[tuple[str, ...], list[float]] = {}

    def begin(self, *labels: str) -> list[float]:
        """Show nought under *labels*, unless there is more; return the counts."""
        return self._seen.setdefault(labels, [0.0] * (len(self._bounds) + 2))

    def add(self, *labels: str, seconds: float) -> None:
        """Count one that took *seconds*."""
        counts = self.begin(*labels)
        counts[next((i for i, bound in enumerate(self._bounds) if seconds <= bound), len(self._bounds))] += 1
        counts[-1] += seconds

    def family(self) -> Metric:
        """Return the buckets as they are."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, counts in sorted(self._seen.items()):
            buckets, upto = [], 0.0
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=False):
                upto += count
                buckets.append((bound, upto))
            family.add_metric(labels, buckets, counts[-1])
        return family


class Metrics:
    """Observes the reconciler and reads the board; all calls are made on the event loop's thread.

    *now* is the clock of `Board.turned_at`. `observation_age`, `watch_mode` and `alive`, which is what
    /healthz says, are filled in by the wiring.
    """

    def __init__(self, board: Board, now: Callable[[], float], shown: int = MODELS_SHOWN) -> None:
        self._board, self._now, self._shown = board, now, shown
        # Now, since to look it up takes descriptors, and a scrape is answered where there are none.
        self._build = InfoMetricFamily("modelagent_build", "The agent's release.", {"version": __version__})
        self.observation_age: Callable[[], float | None] = lambda: None
        self.watch_mode: Callable[[], str] = lambda: "poll"
        self.alive: Callable[[], bool] = lambda: True
        self._moved: dict[str, int] = {}
        self._bytes = Tally(
            "modelagent_download_bytes", "Bytes brought by downloads that ended.", ("scheme", "outcome")
        )
        self._downloads = Spread(
            "modelagent_download_duration_seconds", "How long downloads took.", ("scheme", "outcome"), SECONDS
        )
        self._loads = Spread(
            "modelagent_load_duration_seconds",
            "How long loads took, publishing included.",
            ("outcome",),
            SECONDS,
        )
        self._unloads = Tally("modelagent_unloads", "Unloads that ended.", ("outcome",))
        self._retries = Tally(
            "modelagent_retries", "Tries that failed and will be repeated.", ("action", "reason")
        )
        self._plans = Spread(
            "modelagent_reconcile_duration_seconds", "How long making a plan took.", (), PLAN_SECONDS
        )
        self._process = ProcessCollector(registry=None)
        self._begun: set[str] = set()
        for word in _WORDS.values():
            self._loads.begin(word)
            self._unloads.begin(word)
        for status in board.models.values():
            self._on_model(status.name, status)
        board.watch(self._on_model)

    def _on_model(self, _: ModelName, status: ModelStatus | None) -> None:
        """Show the downloads of a scheme from the first model on that names it, failed ones too."""
        if status is None or status.spec is None:
            return
        scheme = scheme_label(status.spec.storage_uri)
        if scheme not in self._begun:
            self._begun.add(scheme)
            for word in _WORDS.values():
                self._bytes.begin(scheme, word)
                self._downloads.begin(scheme, word)

    # What the reconciler and the pod tell.

    def moved(self, uri: str, count: int) -> None:
        """A fetch of *uri* has ended and brought *count* bytes; its outcome follows."""
        self._moved[uri] = count

    def acted(self, outcome: Outcome, seconds: float) -> None:
        """Count an action that ended."""
        action, word = outcome.action, _WORDS[type(outcome)]
        match action:
            case Fetch():
                scheme = scheme_label(action.spec.storage_uri)
                moved = self._moved.pop(action.spec.storage_uri, 0)
                self._bytes.add(scheme, word, amount=moved)
                self._downloads.add(scheme, word, seconds=seconds)
            case Load():
                self._loads.add(word, seconds=seconds)
            case Unload():
                self._unloads.add(word)
        if isinstance(outcome, Failed):
            self._retries.add(type(action).__name__.lower(), outcome.reason)

    def planned(self, seconds: float) -> None:
        """Count a plan."""
        self._plans.add(seconds=seconds)

    # What is read.

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type: OpenMetrics where *accept* asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield every family as it stands."""
        yield self._build
        yield from self._of_config()
        yield from self._of_memory()
        yield from self._of_service()
        models = self._board.models
        yield from _of_phases(models.values())
        yield from _of_models(list(models.values()), self._shown)
        tallies = (self._bytes, self._downloads, self._loads, self._unloads, self._retries, self._plans)
        for tally in tallies:
            yield tally.family()
        yield from self._process.collect()

    def _of_config(self) -> Iterator[Metric]:
        config = self._board.config
        yield _gauge("config_accepted_models", "Good entries of the document in force.", config.accepted)
        yield _gauge("config_rejected_models", "Entries refused by name.", len(config.rejected))
        yield _gauge(
            "config_refused", "1 while the document that was seen is refused whole.", config.error is not None
        )
        mode = GaugeMetricFamily("modelagent_watch_mode", "How changes are noticed: 1.", labels=("mode",))
        current = self.watch_mode()
        for word in WATCH_MODES:
            mode.add_metric((word,), word == current)
        yield mode

    def _of_memory(self) -> Iterator[Metric]:
        memory = self._board.memory
        if memory.budget_bytes is not None:
            yield _gauge("memory_budget_bytes", "The budget for all models.", memory.budget_bytes)
        yield _gauge(
            "memory_reserved_bytes", "What the server holds or may hold by the budget.", memory.reserved_bytes
        )
        if memory.server_rss_bytes is not None:
            yield _gauge(
                "server_resident_memory_bytes", "Resident memory of the server.", memory.server_rss_bytes
            )

    def _of_service(self) -> Iterator[Metric]:
        yield _gauge("server_up", "1 while the model server answers and is ready.", self._board.server.ready)
        age = self.observation_age()
        if age is not None:
            yield _gauge("observation_age_seconds", "Since the model server was last read.", age)
        turned = self._now() - self._board.turned_at
        if turned < float("inf"):
            yield _gauge("reconcile_age_seconds", "Since the reconciler last went round.", turned)
        yield _gauge(
            "reconcile_stalled",
            "1 while /healthz fails: the reconciler stands, or too much hangs.",
            not self.alive(),
        )
        yield _gauge(
            "pod_ready",
            "1 once the first set of models was tried, as /readyz says.",
            not self._board.missing(),
        )


def scheme_label(uri: str) -> str:
    """Return the scheme of *uri* if it is one that is known, else `other`."""
    scheme = scheme_of(uri)
    return scheme if scheme in SCHEMES else OTHER


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"modelagent_{name}", text, value=float(value))


def _of_phases(models: Iterable[ModelStatus]) -> Iterator[Metric]:
    phases: Counter[Phase] = Counter()
    reasons: Counter[str] = Counter()
    ready = 0
    for status in models:
        phases[status.phase] += 1
        ready += status.ready
        if status.reason is not None:
            reasons[status.reason] += 1
    by_phase = GaugeMetricFamily("modelagent_models", "Models by phase.", labels=("phase",))
    for phase in Phase:
        by_phase.add_metric((phase,), phases[phase])
    by_reason = GaugeMetricFamily(
        "modelagent_unsettled_models", "Models not ready and up to date, by reason.", labels=("reason",)
    )
    for reason in sorted(reasons):
        by_reason.add_metric((reason,), reasons[reason])
    yield by_phase
    yield by_reason
    yield _gauge("ready_models", "Models that the server confirms.", ready)


def _of_models(models: Sequence[ModelStatus], shown: int) -> Iterator[Metric]:
    """Yield the gauges of single models: the first by name, the rest as one (its least ready, sum, most)."""
    named = sorted((status for status in models if status.name != OTHER), key=lambda status: status.name)
    own = {status.name for status in named[:shown]}
    rest = [status for status in models if status.name not in own]
    ready = GaugeMetricFamily("modelagent_model_ready", "1 while the server confirms it.", labels=("model",))
    held = GaugeMetricFamily("modelagent_model_reserved_bytes", "Its part of the budget.", labels=("model",))
    tries = GaugeMetricFamily(
        "modelagent_model_failed_attempts", "Tries that failed in a row.", labels=("model",)
    )
    for status in named[:shown]:
        ready.add_metric((status.name,), status.ready)
        held.add_metric((status.name,), status.held_bytes)
        tries.add_metric((status.name,), status.attempts)
    if rest:
        ready.add_metric((OTHER,), min(status.ready for status in rest))
        held.add_metric((OTHER,), sum(status.held_bytes for status in rest))
        tries.add_metric((OTHER,), max(status.attempts for status in rest))
    yield ready
    yield held
    yield tries


_WORDS = {Succeeded: "succeeded", Failed: "failed", Cancelled: "cancelled"}
