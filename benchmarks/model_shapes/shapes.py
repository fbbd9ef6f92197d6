"""The shapes by the names that `--model-shape` takes, each in two scales, and how vLLM is started for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.model_shapes import full, tiny
from benchmarks.model_shapes.full import Config

SCALES = ("full", "tiny")
DEFAULT = "qwen2.5-7b"
# A state is kept at the end of a block, and vLLM 0.32 fails on a CPU where a step ends beyond one.
STATE_STEP_TOKENS = 512


@dataclass(frozen=True)
class Shape:
    """`arguments` are vLLM's, for every server; `defaults` the benchmark's options that this shape needs changed."""

    config: Config
    arguments: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


# On a CPU vLLM leaves windows unused unless it is told to.
WINDOWS = ("--no-disable-hybrid-kv-cache-manager",)
KEEP_STATES = ("--enable-prefix-caching",)
STATE_STEPS = {"block_size": STATE_STEP_TOKENS, "max_num_batched_tokens": STATE_STEP_TOKENS}
# The CPU backend that every CPU has knows blocks of 16 only and no prompt in steps: four whole ones fit into one.
MLA_ON_CPU = {"block_size": 16, "max_num_batched_tokens": 4 * 4096}

FULL = {
    DEFAULT: Shape(full.QWEN25_7B),
    # FlashInfer's kernel would be compiled while requests wait; and each sequence has a state in the cache, which
    # holds fewer than vLLM's default of 1,024.
    "qwen3-next": Shape(full.QWEN3_NEXT_80B, ("--gdn-prefill-backend", "triton", "--max-num-seqs", "256")),
    # vLLM would read the tokenizer as DeepSeek's own; the sparse kernels know blocks of 64 only.
    "deepseek-v3.2": Shape(full.DEEPSEEK_V32, ("--tokenizer-mode", "hf"), {"block_size": 64}),
    "deepseek-v3": Shape(full.DEEPSEEK_V3, defaults={"block_size": 64}),
    "gpt-oss-20b": Shape(full.GPT_OSS_20B),
    "gemma-3-12b": Shape(full.GEMMA_3_12B),
    "nemotron-h": Shape(full.NEMOTRON_H_8B),
}
# Without DeepSeek V3.2: vLLM has no sparse attention on a CPU.
TINY = {
    DEFAULT: Shape(tiny.QWEN25_7B),
    "qwen3-next": Shape(tiny.QWEN3_NEXT_80B, KEEP_STATES, STATE_STEPS | {"dtype": "bfloat16"}),
    "deepseek-v3": Shape(tiny.DEEPSEEK_V3, ("--attention-backend", "CPU_MLA"), MLA_ON_CPU),
    "gpt-oss-20b": Shape(tiny.GPT_OSS_20B, WINDOWS),
    "gemma-3-12b": Shape(tiny.GEMMA_3_12B, WINDOWS),
    "nemotron-h": Shape(tiny.NEMOTRON_H_8B, KEEP_STATES, STATE_STEPS),
}
NAMES = tuple(FULL)


def find(name: str, scale: str) -> Shape:
    """Raises: ValueError: there is none, with what there is."""
    if name not in NAMES:
        raise ValueError(f"{name!r}: expected one of {', '.join(NAMES)}")
    if scale == "tiny" and name not in TINY:
        raise ValueError(f"{name!r}: expected --profile gpu, vLLM has no sparse attention on a CPU")
    return TINY[name] if scale == "tiny" else FULL[name]
