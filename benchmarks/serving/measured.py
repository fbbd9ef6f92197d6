"""Rows of figures out of a plan's runs on disk."""

from collections.abc import Iterable, Iterator

from benchmarks.serving.plan import Measurement
from benchmarks.serving.points import PROMPTS, STREAMS, Shape
from benchmarks.tables import Row
from benchmarks.whole_stack.run_folders import RunFolders
from loadtest.figures.record import RequestRecord
from loadtest.figures.summary import Distribution, Summary, summarize
from loadtest.runs.manifest import Manifest

ALL = "all"
WHOLE = (
    *("offered_per_s", "goodput_per_s", "goodput_share", "saturation", "generator_limit"),
    *("outcomes", "errors", "paths", "transports", "cached_share"),
)


class MeasuredRuns(RunFolders):
    """Those of one plan."""

    def repeats(self) -> int:
        """How many there are something of."""
        numbers = [folder.name.partition("-")[0] for folder in self._folder.glob("*-*/")]
        return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)

    def rows(self, measurement: Measurement) -> list[Row]:
        """One of all requests, and of a mixture one for each kind. Empty: not measured yet."""
        run = self.run(measurement)
        if run is None or run.summary is None:
            return []
        about = {"repeat": measurement.repeat, "side": measurement.side, "point": str(measurement.point)}
        rows = [{**about, "requests": ALL, **_figures(run.summary)}]
        if measurement.point.shape.prompts:
            for kind, some in _by_kind(self.requests(measurement), measurement.point.shape).items():
                part = summarize(some, run.slo, warmup_s=run.summary.from_s, until_s=run.summary.until_s)
                limits = {name: getattr(run.summary, name) for name in ("saturation", "generator_limit")}
                rows.append({**about, "requests": kind, **_figures(part.model_copy(update=limits))})
        return rows

    def manifests(self, measurements: Iterable[Measurement]) -> Iterator[tuple[str, Manifest]]:
        """Side and the load test's own account of the run, of each that is complete."""
        for measurement in measurements:
            if run := self.run(measurement):
                yield measurement.side, run.manifest


def _figures(summary: Summary) -> Row:
    """What the page needs of a summary, flat: `ttft_p50_s`, `ttft_n` and so on."""
    row: Row = {}
    for word in ("ttft", "itl", "tpot"):
        of: Distribution = getattr(summary, f"{word}_s")
        row |= {f"{word}_n": of.count, f"{word}_p50_s": of.p50, f"{word}_p99_s": of.p99}
    return row | {name: getattr(summary, name) for name in WHOLE}


def _by_kind(records: Iterable[RequestRecord], shape: Shape) -> dict[str, list[RequestRecord]]:
    kinds: dict[str, list[RequestRecord]] = {STREAMS: [], PROMPTS: []}
    for record in records:
        # A target that cannot count tokens leaves the prompt's length open.
        is_long = record.wanted_input_tokens not in (None, shape.streams.input)
        is_stream = not is_long and record.wanted_output_tokens == shape.streams.output
        kinds[STREAMS if is_stream else PROMPTS].append(record)
    return kinds
