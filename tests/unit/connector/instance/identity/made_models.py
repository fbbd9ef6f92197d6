"""Folders as a hub's, with weights of a few kilobytes."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from random import Random

Tensors = dict[str, bytes]  # of float32


def some_tensors() -> Tensors:
    """Of different sizes: of a norm all is read, of the larger ones samples."""
    numbers = Random(3)
    sizes = {"embed": 60_000, "layers.0.q_proj": 9_000, "layers.1.q_proj": 9_000, "norm": 576, "scale": 1}
    return {name: struct.pack(f"<{n}f", *(numbers.uniform(0.5, 1) for _ in range(n))) for name, n in sizes.items()}


def scaled(tensor: bytes, first: float = 0.0, last: float = 1.0) -> bytes:
    """The values between two fractions of it times 1.5."""
    values = list(struct.unpack(f"<{len(tensor) // 4}f", tensor))
    for number in range(int(first * len(values)), int(last * len(values))):
        values[number] *= 1.5
    return struct.pack(f"<{len(values)}f", *values)


def safetensors(file: Path, tensors: Mapping[str, bytes], metadata: str = "pt") -> Path:
    contents: dict[str, object] = {"__metadata__": {"format": metadata}}
    at = 0
    for name, tensor in tensors.items():
        contents[name] = {"dtype": "F32", "shape": [len(tensor) // 4], "data_offsets": [at, at + len(tensor)]}
        at += len(tensor)
    header = json.dumps(contents).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(tensors.values()))
    return file


def model_folder(folder: Path, tensors: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 576, "transformers_version": folder.name}))
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text(f"# {folder}")
    safetensors(folder / "model.safetensors", tensors, metadata=folder.name)
    return folder
