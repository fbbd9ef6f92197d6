"""Which files of a folder are a model's weights, and one digest of them all."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from connector.instance.identity.samples import digest_of

# In the order in which vLLM looks for them (default_loader.py), by --load-format; other formats look as `auto` does.
PATTERNS = {
    "hf": ("*.safetensors", "*.bin", "*.pt"),
    "safetensors": ("*.safetensors",),
    "fastsafetensors": ("*.safetensors",),
    "mistral": ("consolidated*.safetensors",),
    "npcache": ("*.bin",),
    "pt": ("*.pt",),
}
AUTO = ("consolidated*.safetensors", "*.safetensors", "*.bin", "*.pt")
INDEX = "model.safetensors.index.json"  # which of several files belong together


def weights_in(path: Path, load_format: str = "auto") -> list[Path]:
    """The files that vLLM would load of a model's folder; empty where it finds none. A file is its own."""
    if path.is_file():
        return [path]
    for pattern in PATTERNS.get(load_format, AUTO):
        if found := sorted(path.glob(pattern)):
            return _of_the_index(path / INDEX, found) if pattern == "*.safetensors" else found
    return []


def _of_the_index(index: Path, found: list[Path]) -> list[Path]:
    """A folder may have the same weights once more, in a single file."""
    try:
        named = set(dict(json.loads(index.read_bytes())["weight_map"]).values())
    except (OSError, ValueError, TypeError, KeyError):
        return found
    return [file for file in found if file.name in named] or found


def digest_of_all(files: Iterable[Path]) -> str:
    """Whatever they are called; empty for none. Raises: OSError: one cannot be read."""
    digests = "".join(sorted(map(digest_of, files)))
    return digests and hashlib.blake2b(digests.encode(), digest_size=8).hexdigest()
