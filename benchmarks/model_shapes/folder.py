"""The folder of a shape: its configuration and another model's tokenizer; vLLM makes up the weights."""

import json
import shutil
from pathlib import Path

from benchmarks.errors import CannotStart
from benchmarks.model_shapes.full import Config

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def write(config: Config, folder: Path, tokenizer: Path) -> Path:
    """Write the configuration and a copy of another model's tokenizer into `folder`.

    Raises: CannotStart: `tokenizer` holds none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if not (tokenizer / name).is_file():
            raise CannotStart(f"{str(tokenizer)!r}: expected a folder with the {name} of a model")
    text = (tokenizer / TOKENIZER).read_text()
    (folder / TOKENIZER).write_text(_with_a_text_for_every_id(text, config["vocab_size"]))
    shutil.copy(tokenizer / TOKENIZER_CONFIG, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return folder


def _with_a_text_for_every_id(tokenizer: str, vocab_size: int) -> str:
    """The tokenizer's JSON with a word for each id that the model has beyond its own.

    Made-up weights choose any id, and a chunk without text is no token that a client can see. No text is tokenized
    differently: a BPE vocabulary's word that no merge leads to is never found in one.
    """
    document = json.loads(tokenizer)
    vocabulary: dict[str, int] = document["model"]["vocab"]
    known = {*vocabulary.values(), *(added["id"] for added in document.get("added_tokens", []))}
    wanted = set(range(vocab_size)) - known
    vocabulary.update({f"<{number}>": number for number in sorted(wanted)})
    return json.dumps(document, ensure_ascii=False)
