"""What one run measures, on which servers: the command line of `python -m benchmarks.store`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.connector.topology import server_options
from benchmarks.connector.topology.server_options import ServerOptions
from benchmarks.option_types import count, counts

GIB = 1 << 30

# Defaults that depend on the machine, beside those of its servers. Sizes in tokens and bytes.
PROFILES: dict[str, dict[str, Any]] = {
    # A token of SmolLM2 in float32 has 45 KiB of KV cache. Its context ends before 16,000.
    "cpu": {
        "prompt_tokens": (512, 2000, 8000),
        "rounds": 4,
        "warm_up": 1,
        "max_model_len": 8192,
        "kv_cache_bytes": GIB,
        "store_bytes": 4 * GIB,
    },
    # A token of Qwen2.5-7B has 56 KiB.
    "gpu": {
        "prompt_tokens": (512, 2000, 8000, 16000),
        "rounds": 8,
        "warm_up": 2,
        "max_model_len": 32000,
        "kv_cache_bytes": 8 * GIB,
        "store_bytes": 24 * GIB,
    },
}


@dataclass(frozen=True)
class Options(ServerOptions):
    """Field `prompt_tokens` is the option `--prompt-tokens`; its help text says what it means."""

    prompt_tokens: tuple[int, ...]
    rounds: int
    warm_up: int
    store_bytes: int
    gpus: str


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    server_options.set_defaults(parser, arguments, PROFILES)
    options = Options(**vars(parser.parse_args(arguments)))
    server_options.check(parser, options)
    for tokens in options.prompt_tokens:
        if not options.block_size < tokens < options.max_model_len:
            parser.error(
                f"--prompt-tokens={tokens}: expected more than a block of {options.block_size} tokens, and less than "
                f"--max-model-len={options.max_model_len}"
            )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store", usage="%(prog)s [OPTION…]; --help lists them", description=__doc__
    )
    add = parser.add_argument
    add("--prompt-tokens", type=counts, help="sizes, with commas")
    add("--rounds", type=count, help="requests per size and route")
    add("--warm-up", type=int, help="unmeasured requests per size and route, before the others")
    add(
        "--store-bytes", type=count, help="memory of the store's owner; all prompts of a run have to fit into 0.9 of it"
    )
    add("--gpus", default="", help="CUDA_VISIBLE_DEVICES of each server")
    server_options.add(parser)
    return parser
