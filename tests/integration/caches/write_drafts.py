"""Write targets and their drafts: python -m tests.integration.caches.write_drafts FOLDER, in vLLM's environment.

Each is a folder. `drafts.py` says why the weights are as they are.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.caches.drafts import DRAFTS, TARGETS, WHOLE
from tests.integration.caches.models import Config
from tests.integration.caches.write_models import write
from tests.tiny_models import write_tokenizer

if TYPE_CHECKING:
    import torch

    Weights = dict[str, torch.Tensor]

LOUD, QUIET = 8.0, 0.3  # a layer's own part of what leaves it; the token's is 1
FIRST = "model.layers.0."
OUT = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
NORMS_OF_LLAMA = ("input_layernorm.weight", "post_attention_layernorm.weight")


def main() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    parent = Path(sys.argv[1])
    for served in WHOLE:
        write(parent / served.name, served.config)
    for name, config in TARGETS.items():
        write_target(parent / name, config)
    for name, (target, config) in DRAFTS.items():
        write_draft(parent / name, parent / target, config)


def write_target(folder: Path, config: Config) -> None:
    """Only its first layer changes what it is given."""
    from safetensors.torch import load_file, save_file

    write(folder, config)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(OUT):
            weight *= LOUD if name.startswith(FIRST) else 0
    embeddings = weights["model.embed_tokens.weight"]
    embeddings /= embeddings.square().mean(-1, keepdim=True).sqrt()
    for name in ("model.norm.weight", f"{FIRST}input_layernorm.weight"):
        weights[name] = _neutral(weights[name], config)
    layers = config["num_hidden_layers"]
    for layer in range(layers, layers + config.get("num_nextn_predict_layers", 0)):
        weights |= _module(f"model.layers.{layer}.", weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _module(prefix: str, weights: "Weights") -> "Weights":
    """Of MTP: the first layer once more, that looks at the token alone."""
    layer = {name.replace(FIRST, prefix): weight.clone() for name, weight in weights.items() if name.startswith(FIRST)}
    norm = weights["model.norm.weight"]
    return layer | {
        f"{prefix}enorm.weight": norm.clone(),
        f"{prefix}hnorm.weight": norm.clone(),
        f"{prefix}shared_head.norm.weight": norm.clone(),
        f"{prefix}eh_proj.weight": _first_half(norm.numel(), 2),
        f"{prefix}embed_tokens.weight": weights["model.embed_tokens.weight"].clone(),
        f"{prefix}shared_head.head.weight": weights["lm_head.weight"].clone(),
    }


def write_draft(folder: Path, target: Path, config: Config) -> None:
    """One layer, the target's first."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    theirs = load_file(target / "model.safetensors")
    layer = {name.removeprefix(FIRST): weight for name, weight in theirs.items() if name.startswith(FIRST)}
    size, head, heads = config["hidden_size"], config["head_dim"], config["num_key_value_heads"]
    if target_is_gemma(target):  # whose layers are others, and weigh less than the token: so does the draft's
        layer = {name: weight for name, weight in layer.items() if not name.endswith("norm.weight")}
        layer |= {name: torch.ones(size) for name in NORMS_OF_LLAMA} | {
            name: layer[name] * QUIET / LOUD for name in OUT
        }
    for name in ("self_attn.k_proj.weight", "self_attn.v_proj.weight"):  # more heads: copies, side by side
        split = layer[name].unflatten(0, (-1, head))
        layer[name] = split.repeat_interleave(heads // split.shape[0], 0).flatten(0, 1)
    if config["architectures"] == ["LlamaForCausalLMEagle3"]:
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = layer[f"self_attn.{name}.weight"]
            layer[f"self_attn.{name}.weight"] = torch.cat([weight, torch.zeros_like(weight)], 1)
        layer["hidden_norm.weight"] = torch.ones(size)
        weights = {f"midlayer.{name}": weight for name, weight in layer.items()}
        weights |= {"fc.weight": torch.zeros(size, 3 * size), "norm.weight": torch.ones(size)}
        weights["lm_head.weight"] = theirs["lm_head.weight"]
    else:
        del layer["input_layernorm.weight"]  # EAGLE has none
        weights = {f"layers.0.{name}": weight for name, weight in layer.items()}
        weights["fc.weight"] = _first_half(size, 2)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tokenizer(folder)


def target_is_gemma(target: Path) -> bool:
    return bool(json.loads((target / "config.json").read_text())["model_type"].startswith("gemma"))


def _first_half(size: int, parts: int) -> "torch.Tensor":
    """Of so many vectors one behind the other, the first."""
    import torch

    return torch.cat([torch.eye(size), torch.zeros(size, size * (parts - 1))], 1)


def _neutral(norm: "torch.Tensor", config: Config) -> "torch.Tensor":
    """Of Gemma a norm's weight counts from 1."""
    import torch

    return torch.zeros_like(norm) if config["model_type"].startswith("gemma") else torch.ones_like(norm)


if __name__ == "__main__":
    main()
