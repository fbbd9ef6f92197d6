"""What one comparison measures, and where its results go: `python -m benchmarks.store.conversations`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import count, counts, positive
from benchmarks.store.conversations.loads import CHAT, TRACE, Chats, Load, TracePiece
from benchmarks.store.conversations.plan import Plan
from benchmarks.store.conversations.trace_piece import take
from benchmarks.whole_stack import workplace
from loadtest.workloads import jsonl
from loadtest.workloads.trace import TraceLine
from stack.configuration.environment import ConfigError

MIB, GIB = 1 << 20, 1 << 30
# For SmolLM2 in float32, of which a token has 45 KiB. At their ends the default's chats have 1.5 GiB: two producers
# hold a third of it with the first size, and all with the second, where affinity alone can find everything.
CACHES = {CHAT: (256 * MIB, GIB), TRACE: (512 * MIB,)}
# What every side has beside the user's own variables. 2 and 2: as many as can prefer, and take from, one another.
VARIABLES = {"PREFILL_REPLICAS": "2", "DECODE_REPLICAS": "2"}


@dataclass(frozen=True)
class Options:
    """Field `kv_cache_bytes` is the option `--kv-cache-bytes`; its help text says what it means."""

    load: str
    sessions: int
    turns: int
    input_tokens: int
    output_tokens: int
    users: int
    run_limit: float
    trace: Path | None
    requests: int
    rate: float
    length_scale: float
    kv_cache_bytes: tuple[int, ...]
    store_bytes: int
    max_model_len: int
    repeats: int
    seed: int
    fresh: bool
    stack_python: Path
    commit: str
    out: Path
    work: Path
    time_limit: float

    @property
    def variables(self) -> dict[str, str]:
        """Of the stack, where the user has set none."""
        return {name: value for name, value in VARIABLES.items() if not os.environ.get(name)}

    def plan(self, load: Load, variables: dict[str, str]) -> Plan:
        """`variables`: of the stack, as far as anybody has set them."""
        return Plan(load, self.kv_cache_bytes, self.repeats, self.seed, self.store_bytes, self.max_model_len, variables)


def parse(arguments: Sequence[str]) -> tuple[Options, Load]:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    given["kv_cache_bytes"] = given["kv_cache_bytes"] or CACHES[given["load"]]
    options = Options(**given)
    return options, _trace(parser, options) if options.load == TRACE else _chats(parser, options)


def _chats(parser: argparse.ArgumentParser, options: Options) -> Chats:
    longest = options.turns * (options.input_tokens + options.output_tokens)
    if longest > options.max_model_len:
        parser.error(
            f"--turns={options.turns}: chats grow to {longest} tokens, expected at most "
            f"--max-model-len={options.max_model_len}"
        )
    if options.users >= options.sessions:
        parser.error(f"--users={options.users}: expected fewer than --sessions={options.sessions}")
    return Chats(
        options.sessions, options.turns, options.input_tokens, options.output_tokens, options.users, options.run_limit
    )


def _trace(parser: argparse.ArgumentParser, options: Options) -> TracePiece:
    if options.trace is None:
        parser.error("--trace: expected a file in Mooncake's format, e.g. its conversation_trace.jsonl")
    try:
        lines = jsonl.read(options.trace, TraceLine, "--trace")
        piece = take(lines, options.requests, options.length_scale, options.max_model_len)
    except ConfigError as error:
        parser.error(str(error))
    except ValueError as error:
        parser.error(f"--length-scale={options.length_scale:g}: {error}")
    return TracePiece(piece, options.trace.name, options.rate, options.length_scale)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store.conversations",
        usage="%(prog)s [chat|trace] [OPTION…]; --help lists them",
        description=__doc__,
    )
    add = parser.add_argument
    add("load", nargs="?", choices=[CHAT, TRACE], default=CHAT, help="what is sent; chat if nothing is said")
    add("--sessions", type=count, default=25, help="chat: how many chats")
    add("--turns", type=count, default=5, help="chat: turns of each")
    add("--input-tokens", type=count, default=256, help="chat: what a turn adds to the prompt")
    add("--output-tokens", type=count, default=32, help="chat: of each answer")
    add("--users", type=count, default=4, help="chat: requests under way")
    add("--run-limit", type=positive, default=900.0, help="chat: seconds after which one side's requests are cut short")
    add("--trace", type=Path, metavar="FILE", help="trace: in Mooncake's format, e.g. its conversation_trace.jsonl")
    add("--requests", type=count, default=200, help="trace: about how many of its requests, of whole conversations")
    add("--rate", type=positive, default=0.5, help="trace: requests a second in the mean")
    # 1/16: so that a block of the trace, 512 tokens, is one of the KV cache, 32.
    add("--length-scale", type=positive, default=0.0625, help="trace: what its lengths are multiplied by")
    add("--kv-cache-bytes", type=counts, help="of each instance; several, with commas, are measured one after another")
    add("--store-bytes", type=count, default=3 * GIB, help="memory of the store's owner")
    add("--max-model-len", type=count, default=4096, help="tokens of a prompt and its answer; a trace's longer ones go")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    workplace.add_options(parser, time_limit_s=float(3 * 3600))
    return parser
