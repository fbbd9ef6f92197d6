"""The recommended split as settings: lines for `.env`, and values for Helm."""

from benchmarks.plan.options import Options
from planner.sizing.answer import Answer
from planner.sizing.splits import Split


def env(options: Options, answer: Answer) -> str:
    """COMPOSE_FILE keeps what it names otherwise."""
    split = answer.chosen.split
    lines = [f"# {split.words}; `make plan` wrote it. Lines for .env:", *_replicas(split)]
    if split.aggregated:
        overlay = "compose.gpu.yaml:" if "GPU" in options.case.variant.profile.conditions else ""
        lines.append(f"COMPOSE_FILE=compose.yaml:{overlay}compose.baseline.yaml")
    profile = options.case.variant.profile
    lines += [
        f"MAX_NUM_BATCHED_TOKENS={profile.step_tokens}",
        f"PROXY_LOCAL_PROMPT_TOKENS={options.case.variant.policy.local_prompt_tokens}",
    ]
    if options.case.variant.transport:
        lines.append(f"MOONCAKE_PROTOCOL={options.case.variant.transport}")
    return "\n".join(lines) + "\n"


def helm_values(answer: Answer) -> str | None:
    """None: the chart has no aggregated servers."""
    split = answer.chosen.split
    if split.aggregated:
        return None
    return f"prefill:\n  replicas: {split.producers}\ndecode:\n  replicas: {split.consumers}\n"


def _replicas(split: Split) -> list[str]:
    """Of aggregated servers compose.baseline.yaml starts as many as there would be of both."""
    producers, consumers = split.producers, split.consumers
    if split.aggregated:
        producers, consumers = split.aggregated - split.aggregated // 2, split.aggregated // 2
    return [f"PREFILL_REPLICAS={producers}", f"DECODE_REPLICAS={consumers}"]
