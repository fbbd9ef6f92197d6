"""Tiny models whose drafts guess well, and with which options vLLM serves each pair on a CPU.

A draft of EAGLE or MTP sees the token that follows, and the target's hidden states. A target of which only the first
layer does anything, and a draft that is that layer and ignores the hidden states, say the same: almost every guess
is accepted, and none any more when the draft lacks its cache. `write_drafts.py` makes the weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.integration.caches import models
from tests.integration.caches.models import Config, Served
from tests.tiny_models import VOCABULARY

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}

# Eight layers: EAGLE-3 reads the hidden states behind three of them.
FIRST_LAYER = models.BY_NAME["llama"].config | {"num_hidden_layers": 8}
FIRST_LAYER_GEMMA = models.GEMMA_3
# Without experts: its layers are alike, and so are its modules that predict further tokens.
FIRST_LAYER_MLA = models.DEEPSEEK_V3 | {"first_k_dense_replace": 99, "num_nextn_predict_layers": 1}

TARGETS: dict[str, Config] = {
    "first-layer": FIRST_LAYER,
    "first-layer-gemma-3": FIRST_LAYER_GEMMA,
    "first-layer-mla": FIRST_LAYER_MLA,
    "first-layer-mla-two-modules": FIRST_LAYER_MLA | {"num_nextn_predict_layers": 2},
}
ONE_LAYER = FIRST_LAYER | {"num_hidden_layers": 1}
# By name: the target, and the draft.
DRAFTS: dict[str, tuple[str, Config]] = {
    "eagle": ("first-layer", ONE_LAYER),
    "eagle-twice-the-heads": ("first-layer", ONE_LAYER | {"num_key_value_heads": 4}),
    "eagle-3": (
        "first-layer",
        ONE_LAYER | {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": VOCABULARY},
    ),
    "eagle-gemma-3": ("first-layer-gemma-3", ONE_LAYER),
}


@dataclass(frozen=True)
class Speculation:
    """A target, a way of guessing, and the draft's folder where it has one.

    guesses_well: so often that an answer takes far fewer steps than it has tokens.
    """

    target: Served
    method: str
    draft: str = ""
    tokens: int = 3
    guesses_well: bool = True

    @property
    def has_cache(self) -> bool:
        return self.method != "ngram"

    @property
    def draft_layers(self) -> str:
        """A regular expression that the draft's layers are found by, as for `Fleet.unmoved`."""
        layers = self.target.config["num_hidden_layers"]
        return r" draft_model\." if self.method == "draft_model" else rf"layers\.({layers}|{layers + 1})\."

    def arguments(self, models_folder: Path) -> str:
        """Of vLLM."""
        if not self.has_cache:
            return f"--speculative-config '{json.dumps(NGRAM)}'"
        config = {"method": self.method, "num_speculative_tokens": self.tokens}
        if self.draft:
            config["model"] = str(models_folder / self.draft)
        return f"--speculative-config '{json.dumps(config)}'"


def _served(name: str, like: str) -> Served:
    served = models.BY_NAME[like]
    return Served(
        name,
        TARGETS[name],
        served.arguments,
        block_size=served.block_size,
        step_tokens=served.step_tokens,
        caches_prefixes=served.caches_prefixes,
    )


# Of which every layer counts, and that are their own drafts.
WHOLE = LLAMA, GEMMA_3, ALL_WINDOWS = [models.BY_NAME[name] for name in ("llama", "gemma-3", "llama-all-windows")]
SHALLOW = _served("first-layer", "llama")
# Mixed heads of target and draft make pages of two sizes in one group.
CASES = {
    "draft model": Speculation(LLAMA, "draft_model", LLAMA.name),
    "EAGLE": Speculation(SHALLOW, "eagle", "eagle"),
    "EAGLE, twice the KV heads": Speculation(SHALLOW, "eagle", "eagle-twice-the-heads"),
    "EAGLE-3": Speculation(SHALLOW, "eagle3", "eagle-3", tokens=2),
    "MTP": Speculation(_served("first-layer-mla", "deepseek-v3"), "mtp", tokens=2),
    "MTP of two modules": Speculation(_served("first-layer-mla-two-modules", "deepseek-v3"), "mtp", tokens=2),
    # What follows guesses badly, or has no cache.
    "EAGLE, windows": Speculation(
        _served("first-layer-gemma-3", "gemma-3"), "eagle", "eagle-gemma-3", guesses_well=False
    ),
    "n-gram": Speculation(LLAMA, "ngram", guesses_well=False),
    "n-gram, windows": Speculation(GEMMA_3, "ngram", guesses_well=False),
}
# Beside a target of full attention its windows are a group of their own.
OWN_GROUP = Speculation(LLAMA, "draft_model", ALL_WINDOWS.name)
