"""A folder with the shape of Qwen2.5-7B and no weights: vLLM makes them up (`--load-format dummy`).

What a transfer costs depends on layers, heads and types, not on what the weights are; so nothing has to be downloaded.
"""

import json
import shutil
from pathlib import Path

from benchmarks.errors import CannotStart

VOCABULARY = 152064
QWEN25_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32768,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def make_qwen_shaped(folder: Path, tokenizer: Path) -> Path:
    """Write the model's configuration and a copy of another model's tokenizer into `folder`.

    Raises: CannotStart: `tokenizer` holds none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if not (tokenizer / name).is_file():
            raise CannotStart(f"{str(tokenizer)!r}: expected a folder with the {name} of a model")
    (folder / TOKENIZER).write_text(_with_a_text_for_every_id((tokenizer / TOKENIZER).read_text()))
    shutil.copy(tokenizer / TOKENIZER_CONFIG, folder)
    (folder / "config.json").write_text(json.dumps(QWEN25_7B, indent=1) + "\n")
    return folder


def _with_a_text_for_every_id(tokenizer: str) -> str:
    """The tokenizer's JSON with a word for each id that the model has beyond its own.

    Made-up weights choose any id, and a chunk without text is no token that a client can see. No text is tokenized
    differently: a BPE vocabulary's word that no merge leads to is never found in one.
    """
    document = json.loads(tokenizer)
    vocabulary: dict[str, int] = document["model"]["vocab"]
    known = {*vocabulary.values(), *(added["id"] for added in document.get("added_tokens", []))}
    wanted = set(range(VOCABULARY)) - known
    vocabulary.update({f"<{number}>": number for number in sorted(wanted)})
    return json.dumps(document, ensure_ascii=False)
