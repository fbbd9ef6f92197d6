"""What one run measures, on which servers: the command line of `python -m benchmarks.connector`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.connector.topology import server_options
from benchmarks.connector.topology.server_options import ServerOptions
from benchmarks.model_shapes import drafts, guessable
from benchmarks.option_types import Tuple, count, counts, one_of, words

MEASUREMENTS = ("latency", "concurrency", "threshold", "speculation", "link")
ROUTES = ("single", "ours", "upstream")
GIB = 1 << 30

# Defaults that depend on the machine, beside those of its servers. Sizes in tokens and bytes.
PROFILES: dict[str, dict[str, Any]] = {
    "cpu": {
        "transports": ("tcp",),
        "prompt_tokens": (500, 1000, 2000, 3000),
        "users": (4,),
        "load_prompt_tokens": 250,
        "load_output_tokens": 32,
        "max_model_len": 4096,
        "kv_cache_bytes": GIB // 2,
        "pairs_at_once": 1,
    },
    "gpu": {
        "transports": ("nvlink_intra", "tcp"),
        "prompt_tokens": (1000, 4000, 16000, 30000),
        "users": (8, 32),
        "load_prompt_tokens": 4000,
        "load_output_tokens": 200,
        "max_model_len": 32000,
        "kv_cache_bytes": 8 * GIB,  # 32 users of 4,200 tokens are 7.2 GiB of Qwen2.5-7B's KV
        "pairs_at_once": 2,
    },
}


@dataclass(frozen=True)
class Options(ServerOptions):
    """Field `prompt_tokens` is the option `--prompt-tokens`; its help text says what it means."""

    measurements: tuple[str, ...]
    routes: tuple[str, ...]
    transports: tuple[str, ...]
    pairs_at_once: int
    prompt_tokens: tuple[int, ...]
    rounds: int
    warm_up: int
    users: tuple[int, ...]
    load_prompt_tokens: int
    load_output_tokens: int
    requests_per_user: int
    load_rounds: int
    draft: str  # empty: no speculation
    draft_tokens: int
    link_rate: str
    link_prompt_tokens: int
    single_gpus: str
    producer_gpus: str
    consumer_gpus: str
    before: Path | None

    @property
    def worker_extension(self) -> str:
        guessed_by_a_head = self.draft and drafts.DRAFTS[self.draft].is_head
        return guessable.WORKER_EXTENSION if guessed_by_a_head else super().worker_extension


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    server_options.set_defaults(parser, arguments, PROFILES)
    options = Options(**vars(parser.parse_args(arguments)))
    if "link" in options.measurements and (options.measurements != ("link",) or options.profile != "cpu"):
        parser.error("link: expected alone and with --profile cpu; it has a network and servers of its own")
    if "threshold" in options.measurements and "ours" not in options.routes:
        parser.error(f"--routes={','.join(options.routes)}: expected ours among them for threshold")
    if error := _speculation_error(options):
        parser.error(error)
    server_options.check(parser, options)
    return options


def _speculation_error(options: Options) -> str:
    """One line for a draft and a measurement that do not go together; empty where they do."""
    kinds = ", ".join(drafts.KINDS)
    if not options.draft:
        return f"speculation: expected --draft, one of {kinds}" if "speculation" in options.measurements else ""
    if options.draft not in drafts.DRAFTS:
        return f"--draft={options.draft!r}: expected one of {kinds}"
    if "speculation" not in options.measurements:
        return f"--draft={options.draft!r}: expected with the measurement speculation only"
    suited = drafts.DRAFTS[options.draft].shapes
    if options.model_shape not in suited:
        given = f"--model={options.model!r}" if options.model else f"--model-shape={options.model_shape!r}"
        return f"{given}: expected --model-shape {' or '.join(suited)} with --draft {options.draft}"
    if options.before:
        return f"--before={str(options.before)!r}: expected none with speculation"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.connector",
        usage="%(prog)s MEASUREMENT… [OPTION…]; --help lists them",
        description=__doc__,
    )
    add = parser.add_argument
    add("measurements", nargs="+", choices=MEASUREMENTS, action=Tuple)
    add("--routes", type=one_of(ROUTES), default=ROUTES, help="what to compare, with commas: single,ours,upstream")
    add("--transports", type=words, help="of ours and upstream's pair, with commas; one after the other")
    add("--pairs-at-once", type=int, choices=(1, 2, 3), help="1: no two pairs run side by side")
    add("--prompt-tokens", type=counts, help="latency: sizes, with commas")
    add("--rounds", type=count, default=8, help="latency, link: requests per size and route")
    add("--warm-up", type=int, default=2, help="latency, link: unmeasured requests per size and route")
    add("--users", type=counts, help="concurrency, speculation: users at once, with commas")
    add("--load-prompt-tokens", type=count, help="concurrency, speculation")
    add("--load-output-tokens", type=count, help="concurrency, speculation")
    add("--requests-per-user", type=count, default=2, help="concurrency, speculation: one after the other, each round")
    add("--load-rounds", type=count, default=2, help="concurrency, speculation: the routes take turns so many times")
    add("--draft", default="", help="speculation: what guesses, in every server: " + ", ".join(drafts.KINDS))
    add("--draft-tokens", type=count, default=3, help="speculation: guesses in one step")
    add("--link-rate", default="400mbit", help="link: as tc writes it")
    add("--link-prompt-tokens", type=count, default=1000, help="link: 1,000 are 46 MB of SmolLM2's KV in float32")
    add("--single-gpus", default="", help="CUDA_VISIBLE_DEVICES of the single server")
    add("--producer-gpus", default="", help="CUDA_VISIBLE_DEVICES of producers")
    add("--consumer-gpus", default="", help="CUDA_VISIBLE_DEVICES of consumers")
    add("--before", type=Path, help="a checkout of another commit, whose pair takes turns with the others as `before`")
    server_options.add(parser)
    return parser
