"""What two instances' models must have in common before one may take over the other's cache, each fact by its name.

Told from the files that vLLM will load and the options that it is given, so that equal content in different folders,
on different hosts or from different hubs is equal. Not the chat template: prompts that it makes different are refused
one by one, and completions do not need it.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from connector.cache.fingerprint import fingerprint
from connector.instance.identity.weights import digest_of_all, weights_in
from stack.installation import hub

log = logging.getLogger(__name__)

# Options of vLLM that change what the same files compute, or what the cache holds of it.
DECIDING = (
    *("--block-size", "--code-revision", "--config-format", "--dtype", "--generation-config", "--hf-config-path"),
    *("--hf-overrides", "--kv-cache-dtype", "--load-format", "--model", "--model-impl", "--model-loader-extra-config"),
    *("--override-generation-config", "--quantization", "--revision"),
    *("--tokenizer", "--tokenizer-mode", "--tokenizer-revision"),
)
SHORT = {"-q": "--quantization"}
# The first that is there makes the tokens.
TOKENIZERS = ("tokenizer.json", "tekken.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken")
# Beside the weights: how those are quantized, and what is made of images.
COMPANIONS = ("hf_quant_config.json", "quant*_config.json", "*processor_config.json")
UNTOLD = ("_name_or_path", "transformers_version")  # of a configuration: what wrote it, and from where


def deciding_options(words: Sequence[str]) -> dict[str, str]:
    """Those of DECIDING in vLLM's own arguments, by name; of one that is given twice the last counts, as for vLLM."""
    found = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        given, equals, value = word.partition("=")
        name = SHORT.get(given, given.replace("_", "-"))
        if name.partition(".")[0] in DECIDING:  # --hf-overrides.rope_theta: one value of a JSON object
            found[name] = value if equals else following
    return found


def facts_of(model: str, words: Sequence[str]) -> dict[str, str]:
    """Each short enough for a record and a sentence.

    Args: model: a folder or a hub's id; words: further arguments of vLLM, which win.
    Raises: OSError: a file cannot be read.
    """
    options = deciding_options(words)
    model, load_format = options.pop("--model", model), options.get("--load-format", "auto")
    path = _path(model, options.pop("--revision", None))
    if path is None:
        return {"model": model, "weights": "unknown", **options}
    maker, revision = options.pop("--tokenizer", ""), options.pop("--tokenizer-revision", None)
    defaults = options.pop("--generation-config", "auto")
    companions = [*COMPANIONS, *(["*.py"] if "--trust-remote-code" in words else [])]
    facts = {
        "configuration": _configuration(path / "config.json"),
        "weights": "dummy" if load_format == "dummy" else digest_of_all(weights_in(path, load_format)),
        "other files": digest_of_all(file for pattern in companions for file in path.glob(pattern)),
        "tokenizer": digest_of_all(_tokenizer((_path(maker, revision) if maker else None) or path)),
        # The first token is sampled by the producer, and the others by the consumer.
        "sampling defaults": ""
        if defaults == "vllm"
        else _configuration((path if defaults == "auto" else Path(defaults)) / "generation_config.json"),
    }
    return {name: fact for name, fact in (facts | options).items() if fact}


def adapter_identity(root: str) -> str:
    """Of what vLLM has loaded from `root`, a folder or a hub's id: a digest, or `root` where it cannot be read."""
    path = Path(root).expanduser()
    try:
        folder = path if path.exists() or path.is_absolute() else hub.cached(root)
        files = [file for pattern in ("adapter_config.json", "adapter_model.*") for file in folder.glob(pattern)]
        return digest_of_all(files) or root
    except (OSError, ValueError):
        return root


def _path(model: str, revision: str | None) -> Path | None:
    """Where its files are; from a hub they are fetched before vLLM does it, because here they have to be read first."""
    path = Path(model)
    if path.exists():
        return path
    if hub.is_id(model):
        try:
            return hub.download(model, revision)
        except (OSError, ValueError) as error:
            log.warning("%s: its weights are not known, and so are compared with no other's: %s", model, error)
    return None


def _configuration(file: Path) -> str:
    if not file.is_file():
        return ""
    try:
        config = dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError):  # vLLM will say so
        return digest_of_all([file])
    return fingerprint(config={name: value for name, value in config.items() if name not in UNTOLD})


def _tokenizer(folder: Path) -> list[Path]:
    for pattern in TOKENIZERS:
        if files := list(folder.glob(pattern)):
            return [*files, *folder.glob("merges.txt")] if pattern == "vocab.json" else files
    return []
