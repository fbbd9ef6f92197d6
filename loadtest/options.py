"""The settings that one test may override: options of Locust's command line and fields of its web form.

An option has its setting's name without `loadtest_`. Its value is text until `LoadTestSettings` reads it, so that a bad
one is answered in the same words wherever it came from; an empty one means what the environment says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from locust.argument_parser import LocustArgumentParser

from loadtest.settings import Arrivals, LoadTestSettings, WorkloadName


@dataclass(frozen=True)
class Option:
    name: str
    help: str
    choices: tuple[str, ...] | None = None

    @property
    def setting(self) -> str:
        return f"loadtest_{self.name}"


OPTIONS = (
    Option(
        "workload",
        "curl: the README's prompt; random: prompts of the given lengths; chat: talks of several turns; "
        "trace: a Mooncake trace; prompts: your own file",
        get_args(WorkloadName),
    ),
    Option("model", "empty: the first model that the host lists"),
    Option("seed", "the same seed gives the same prompts and the same arrivals"),
    Option("input_tokens", "a number, uniform:100-500, normal:mean,deviation or lognormal:median,sigma"),
    Option("output_tokens", "the same for answers; where curl and prompts do not say, the most"),
    Option("chat_turns", "turns of a chat; each adds input_tokens to its prompt"),
    Option("chat_sessions", "chats that go on side by side"),
    Option("trace_file", "one request a line: timestamp, input_length, output_length, hash_ids"),
    Option("trace_time_scale", "the trace's times are multiplied by it: 0.5 is twice as fast"),
    Option("trace_length_scale", "the trace's lengths are multiplied by it"),
    Option("prompts_file", "one JSON object a line, with prompt or messages"),
    Option(
        "arrivals",
        "closed: users who wait for their answers; constant, poisson, gamma: at a rate, whatever the answers do; "
        "trace: at the trace's own times",
        get_args(Arrivals),
    ),
    Option("rate", "requests a second that arrive; not used by closed and trace"),
    Option("burstiness", "shape of gamma arrivals: 1 is Poisson, less is burstier"),
    Option("stages", "steps and ramps as seconds:rate, e.g. 60:1,60:1-4; with closed arrivals seconds:users"),
    Option("requests", "how many at most; empty: no limit"),
    Option("warmup_s", "requests of the first seconds are made but not counted"),
    Option("cancel_rate", "share of requests whose client leaves, 0 to 1"),
    Option("cancel_after_s", "seconds after which such a client leaves"),
    Option("slo_ttft_s", "goodput counts requests with a TTFT of at most so many seconds"),
    Option("slo_tpot_s", "and a TPOT of at most so many seconds"),
    Option("slo_itl_s", "and worst gaps (the mean of the longest 10 % of an answer's) of at most so many seconds"),
    Option("run_dir", "folder for the run's files; empty: a new one in STACK_DIR/runs"),
)


def offer(parser: LocustArgumentParser, settings: LoadTestSettings) -> None:
    """Add the options, with what the environment says as defaults."""
    parser.set_defaults(
        host=settings.target,
        web_host=settings.web_host,
        web_port=settings.locust_port,
        stop_timeout=settings.loadtest_drain_s,
    )
    for option in OPTIONS:
        default = getattr(settings, option.setting)
        parser.add_argument(
            f"--{option.name.removesuffix('_s').replace('_', '-')}",
            dest=option.name,
            choices=option.choices,
            default="" if default is None else str(default),
            help=option.help,
        )


def chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given for one test, by the names of the settings; `values` by the names of the options."""
    settings = {"host": "loadtest_target"} | {option.name: option.setting for option in OPTIONS}
    return {setting: values[name] for name, setting in settings.items() if values.get(name, "") not in ("", None)}
