"""Downloads a model from its hub into the cache that vLLM reads.

Done once, before the instances: in containers these have no way out to the internet, and elsewhere two of them would
download side by side.
"""

import os
import re
from pathlib import Path
from typing import Any

# Copies of the weights in formats that vLLM does not load.
NOT_LOADED = ["*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "original/*"]


# To ask for anything else costs the import of the hub's client, which takes a second.
_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def is_id(model: str) -> bool:
    """Whether it may be one, where it is no folder or file."""
    return _ID.fullmatch(model) is not None


def download(model: str, revision: str | None = None) -> Path:
    """Fetch what is missing of `model` (a hub's id) from Hugging Face, or from ModelScope with VLLM_USE_MODELSCOPE.

    Returns: the folder in the hub's cache. Raises: OSError: hub not reached, model not there or not allowed;
    ValueError: not an id.
    """
    return _snapshot(model, revision, ignore_patterns=NOT_LOADED)


def cached(model: str, revision: str | None = None) -> Path:
    """Its folder in the hub's cache as it is; the hub is not asked.

    Raises: OSError, ValueError: it is not there, or is not an id.
    """
    return _snapshot(model, revision, local_files_only=True)


def _snapshot(model: str, revision: str | None, **more: Any) -> Path:
    # The words that vLLM itself takes for true.
    if os.environ.get("VLLM_USE_MODELSCOPE", "").strip().lower() in ("1", "true"):
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    return Path(snapshot_download(model, revision=revision, **more))
