"""Write models with random weights: python -m tests.integration.caches.write_models FOLDER, in vLLM's environment.

On stdin is a JSON object of configs by name; each becomes a folder of that name. Which weights a model has and how its
checkpoint names them is Transformers' knowledge, so vLLM loads, fuses and shards them as it does a real model's.
"""

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stack.configuration.settings import REPOSITORY
from tests.tiny_models import write_tokenizer

if TYPE_CHECKING:
    import torch

SEED = 7
SHARP = ("q_proj", "k_proj", "q_b_proj", "kv_a_proj")  # attention that picks tokens instead of averaging all


def written(parent: Path, configs: dict[str, dict[str, Any]]) -> Path:
    """Runs this module in vLLM's environment, from any. Returns: `parent`, with a folder of each name in it."""
    subprocess.run(
        [REPOSITORY / ".stack/venv/vllm/bin/python", "-m", "tests.integration.caches.write_models", parent],
        cwd=REPOSITORY,
        input=json.dumps(configs),
        text=True,
        check=True,
    )
    return parent


def main() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    parent = Path(sys.argv[1])
    for name, config in json.load(sys.stdin).items():
        write(parent / name, config)


def write(folder: Path, config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.copy_(made_up(name, weight))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tokenizer(folder)


def made_up(name: str, initial: "torch.Tensor") -> "torch.Tensor":
    """Values by the weight's name, spread so that every layer changes what it is given.

    initial: the weight before training, of which only a norm's matters: in some models it is 0, in others 1.
    """
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {SEED}".encode()))
    shape = initial.shape

    def between(low: float, high: float) -> "torch.Tensor":
        return torch.rand(shape, generator=generator) * (high - low) + low

    last = name.rsplit(".", 1)[-1]
    if last == "layer_scalar":
        return initial
    if last == "A_log":  # how fast a state is forgotten
        return between(-3, 0)
    if last == "dt_bias":
        return between(-1, 1)
    if last == "D":
        return between(0.5, 1)
    if "norm" in name and initial.ndim == 1:
        return initial + between(-0.2, 0.2)
    if initial.ndim < 2:
        return between(-0.1, 0.1)
    # Uniform with a variance of 1 / inputs: numbers come out about as large as they went in.
    gain = 2.0 if any(part in name for part in SHARP) else 1.0
    return between(-1, 1) * gain * float(3 / shape[-1]) ** 0.5


if __name__ == "__main__":
    main()
