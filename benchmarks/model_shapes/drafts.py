"""What guesses tokens ahead of a shape: the kinds that `--draft` takes, with vLLM's method and the shapes of each.

Heads that read the target's hidden states (EAGLE's, and a module of MTP) get weights of `guessable.py`: nobody has
trained them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.model_shapes import shapes
from benchmarks.model_shapes.full import Config


@dataclass(frozen=True)
class Draft:
    """`config` makes the draft's configuration of its target's; None: the draft is in the target's folder.

    `is_head`: reads the target's hidden states.
    """

    method: str
    shapes: tuple[str, ...]
    config: Callable[[Config], Config] | None = None
    names_folder: bool = True
    is_head: bool = True


def _eagle(target: Config) -> Config:
    """One layer like the target's. vLLM has no such head of Qwen's; of Llama's layers one can have Qwen2's biases."""
    like_llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "qkv_bias": True}
    return target | like_llama | {"num_hidden_layers": 1}


DRAFTS = {
    # The target once more, with the same weights: each guess is right but for rounding.
    "itself": Draft("draft_model", (shapes.DEFAULT,), is_head=False),
    "eagle": Draft("eagle", (shapes.DEFAULT,), _eagle),
    "mtp": Draft("mtp", ("deepseek-v3",), names_folder=False),
}
KINDS = tuple(DRAFTS)


def speculative_config(kind: str, tokens: int, target: Config, model: Path, scratch: Path) -> str:
    """vLLM's `--speculative-config` for a target of this configuration in the folder `model`.

    A draft's own folder is made in `scratch`; it needs no weights and no tokenizer. Args: tokens: guesses in one step.
    """
    draft = DRAFTS[kind]
    config: dict[str, object] = {"method": draft.method, "num_speculative_tokens": tokens}
    if draft.config:
        folder = scratch / "draft"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(draft.config(target), indent=1) + "\n")
        config["model"] = str(folder)
    elif draft.names_folder:
        config["model"] = str(model)
    return json.dumps(config)
