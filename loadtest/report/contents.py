"""What both reports of a run say, in Markdown and in HTML: its warnings, and its figures as tables of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.figures.columns import Columns
from loadtest.figures.summary import OUTCOMES, Distribution, Summary
from loadtest.runs.run_folder import Run

PHASES = {"queue": "queue", "prefill": "prefill", "transfer": "KV transfer", "first_step": "first decode step"}
NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """The first column names the row, the others are figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Contents:
    """Args: run: with its figures; damage: what was wrong with requests.jsonl."""

    def __init__(self, folder: Path, run: Run, columns: Columns, damage: str | None) -> None:
        assert run.summary is not None
        self.folder = folder
        self.run = run
        self.summary: Summary = run.summary
        self.columns = columns
        self._damage = damage

    @property
    def title(self) -> str:
        told = self.run.manifest
        return f"Load test of {', '.join(told.models) or told.target}"

    @property
    def subtitle(self) -> str:
        told = self.run.manifest
        return f"{told.started_at.replace('T', ' ')} · {self.load} · SLO: {self.run.slo}"

    @property
    def load(self) -> str:
        settings, told = self.run.settings, self.run.manifest
        arrivals, stages = settings.get("LOADTEST_ARRIVALS", "closed"), settings.get("LOADTEST_STAGES")
        if stages:
            amount = f"stages {stages}"
        elif arrivals in ("closed", "trace"):
            amount = "users who wait for their answers" if arrivals == "closed" else "at the trace's times"
        else:
            amount = f"{settings.get('LOADTEST_RATE')} requests/s"
        lasted = "" if told.load_s is None else f" for {told.load_s:.0f} s"
        return f"workload {settings.get('LOADTEST_WORKLOAD')}, arrivals {arrivals}: {amount}{lasted}"

    def warnings(self) -> list[str]:
        """What a reader must know before any figure."""
        summary, found = self.summary, []
        if not summary.requests:
            found.append("No request was measured: every one was scheduled in the warm-up, or there was none.")
        elif not summary.outcomes["completed"]:
            found.append("No request was answered.")
        found += self.run.manifest.problems
        if summary.saturation:
            found.append(f"Saturated: {summary.saturation}. Latencies of this load depend on how long it lasts.")
        if summary.generator_limit:
            found.append(f"The load generator was at its limit: {summary.generator_limit}.")
        if self.run.manifest.load_s is None:
            found.append("The run was killed: what was under way is missing, and rates end with the last request.")
        for name, number in summary.unexpected_lengths.items():
            if number:
                found.append(f"{number} answers had another number of {name} tokens than the workload wanted.")
        if self._damage:
            found.append(self._damage)
        return found

    def phases(self) -> dict[str, Distribution]:
        """Named for people, in the order in which a request goes through them."""
        told = {name: of for name, of in self.summary.phases_s.items() if of.count}
        known = {label: told.pop(name) for name, label in PHASES.items() if name in told}
        return known | told

    def tables(self) -> list[Table]:
        every = (
            self._latencies(),
            self._rates(),
            self._stages(),
            self._outcomes(),
            self._phases(),
            self._second_tokens(),
            self._lengths(),
            self._manifest(),
            self._settings(),
        )
        return [table for table in every if table.rows]

    def _latencies(self) -> Table:
        summary = self.summary
        rows = {
            "TTFT": summary.ttft_s,
            "ITL": summary.itl_s,
            "TPOT": summary.tpot_s,
            "end to end": summary.end_to_end_s,
            "worst gaps of a request": summary.worst_gaps_s,
            "start delay": summary.start_delay_s,
        }
        note = (
            "TTFT and end to end count from the scheduled start, so the start delay is part of them. Worst gaps: the "
            "mean of the longest 10 % of an answer's gaps between chunks (Mooncake's TBT)."
        )
        return Table(*_distributions("Latencies, ms", rows), note=note)

    def _rates(self) -> Table:
        summary = self.summary
        rows = [
            ("requests offered", per_second(summary.offered_per_s)),
            ("requests completed", per_second(summary.requests_per_s)),
            ("output tokens", per_second(summary.output_tokens_per_s)),
            ("goodput: requests within the SLO", per_second(summary.goodput_per_s)),
            ("their share of the requests", share(summary.goodput_share)),
        ]
        if summary.cached_share is not None:
            rows.append(("prompt tokens found in a prefix cache", share(summary.cached_share)))
        note = (
            f"Counted from {summary.from_s:g} s until {summary.until_s:g} s, while load was offered and no warm-up ran."
        )
        return Table("Rates", ("", "per second or share"), rows, note)

    def _stages(self) -> Table:
        header = (
            *("stage", "offered/s", "completed/s", "goodput/s", "goodput share"),
            *("TTFT P50, ms", "TTFT P99, ms", "ITL P50, ms", "ITL P99, ms", "output tokens/s", "saturated"),
        )
        rows = [
            (
                f"{stage.load} from {stage.summary.from_s:g} s",
                *figures_of(stage.summary),
                "yes" if stage.summary.saturation else "no",
            )
            for stage in self.run.stages
        ]
        return Table("Stages", header, rows)

    def _outcomes(self) -> Table:
        summary = self.summary
        rows = [(name.replace("_", " "), str(summary.outcomes[name])) for name in OUTCOMES]
        rows += [(f"error {name}", str(number)) for name, number in summary.errors.items()]
        rows += [(f"path {name}", str(number)) for name, number in summary.paths.items()]
        rows += [(f"first token by the {who}", str(number)) for who, number in summary.first_tokens.items()]
        rows += [(f"KV cache over {name}", str(number)) for name, number in summary.transports.items()]
        return Table("Requests", ("", "number"), rows)

    def _phases(self) -> Table:
        return Table(*_distributions("Phases of TTFT as the proxy tells them, ms", self.phases()))

    def _second_tokens(self) -> Table:
        rows = {f"behind the {who}'s first token": of for who, of in self.summary.second_token_s.items()}
        note = "Behind the producer's it has what was left of the KV transfer."
        return Table(*_distributions("Gap to the second token as the proxy tells it, ms", rows), note=note)

    def _lengths(self) -> Table:
        rows = {"input": self.summary.input_tokens, "output": self.summary.output_tokens}
        return Table(*_distributions("Lengths as the server counted them, tokens", rows, scale=1))

    def _manifest(self) -> Table:
        told = self.run.manifest
        rows = [
            ("command", told.command),
            ("target", told.target),
            ("model", ", ".join(told.models) or NOTHING),
            ("started, ended", f"{told.started_at}, {told.ended_at or NOTHING}"),
            ("seed", str(told.seed)),
            *((f"{name} of the servers", ", ".join(versions)) for name, versions in told.servers.items()),
            *((f"instance {each.pop('instance_id', '')}", _listed(each)) for each in map(dict, told.instances)),
            ("stack", told.stack),
            *told.versions.items(),
            *((f"load generator's {name}", value) for name, value in told.hardware.items()),
            ("load generator's processes", str(told.workers)),
            (
                "CPU of its busiest process",
                "not measured" if told.cpu_share is None else f"{told.cpu_share:.0%} of a core",
            ),
        ]
        return Table("What was run", ("", ""), rows)

    def _settings(self) -> Table:
        rows = [(name, str(value)) for name, value in sorted(self.run.settings.items()) if value is not None]
        return Table("Settings", ("variable", "value"), rows)


def figures_of(summary: Summary) -> tuple[str, ...]:
    """offered, completed, goodput, its share, TTFT P50 and P99, ITL P50 and P99, output tokens/s."""
    return (
        per_second(summary.offered_per_s),
        per_second(summary.requests_per_s),
        per_second(summary.goodput_per_s),
        share(summary.goodput_share),
        *(number(value, 1000) for of in (summary.ttft_s, summary.itl_s) for value in (of.p50, of.p99)),
        per_second(summary.output_tokens_per_s),
    )


def per_second(rate: float | None) -> str:
    return number(rate, 1)


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"


def number(value: float | None, scale: float) -> str:
    """Three digits at least, and no exponent."""
    if value is None:
        return NOTHING
    scaled = value * scale
    return f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.1f}" if abs(scaled) >= 100 else f"{scaled:.2f}"


def _distributions(
    title: str, rows: dict[str, Distribution], scale: float = 1000
) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    header = ("", "count", "mean", "P50", "P90", "P95", "P99", "max")
    return (
        title,
        header,
        [
            (
                name,
                str(of.count),
                *(number(value, scale) for value in (of.mean, of.p50, of.p90, of.p95, of.p99, of.max)),
            )
            for name, of in rows.items()
            if of.count
        ],
    )


def _listed(instance: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in instance.items())
