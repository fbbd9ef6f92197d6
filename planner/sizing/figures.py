"""A simulated run's figures, computed by the load test's own functions, so that they are what it would measure."""

from collections.abc import Iterator, Sequence

from loadtest.figures.columns import Columns
from loadtest.figures.record import RequestRecord
from loadtest.figures.saturation import saturation
from loadtest.figures.slo import Slo
from loadtest.figures.summary import Summary, summarize_columns
from planner.simulation.deployment import Deployment
from planner.simulation.outcome import Outcome
from planner.simulation.run import Chooser, ours, simulate
from planner.trace import Arrival

WARM_UP = 0.1  # of the span of the arrivals


def records(outcome: Outcome) -> Iterator[RequestRecord]:
    for index, each in enumerate(outcome.served):
        producer, consumer = each.route.producer, each.route.consumer
        yield RequestRecord(
            index=index,
            outcome="completed",
            scheduled=each.arrival.at_s,
            started=each.arrival.at_s,
            ended=each.ended_s,
            first_content=each.first_s,
            itl=tuple(each.gaps_s()),
            finished=each.ended_s,
            wanted_input_tokens=each.arrival.prompt.tokens,
            wanted_output_tokens=each.arrival.output_tokens,
            prompt_tokens=each.arrival.prompt.tokens,
            output_tokens=each.arrival.output_tokens,
            path="disaggregated" if producer else "local",
            reason=each.route.reason,
            producer=producer.instance_id if producer else None,
            consumer=consumer.instance_id,
        )


def summary_of(found: Sequence[RequestRecord], slo: Slo, warmup_s: float, until_s: float) -> Summary:
    run = Columns.of(found, slo)
    summary = summarize_columns(run, warmup_s=warmup_s, until_s=until_s)
    return summary.model_copy(update={"saturation": saturation(run, warmup_s, until_s)})


def figures(arrivals: Sequence[Arrival], deployment: Deployment, slo: Slo, chooser: Chooser = ours) -> Summary:
    """Of all arrivals but those of the first tenth of the time."""
    until_s = arrivals[-1].at_s + 1e-6
    return summary_of(list(records(simulate(arrivals, deployment, chooser))), slo, until_s * WARM_UP, until_s)
