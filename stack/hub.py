"""Downloads a model from its hub into the cache that vLLM reads.

Done once, before the instances: in containers these have no way out to the internet, and elsewhere two of them would
download side by side.
"""

import os
from pathlib import Path

# Copies of the weights in formats that vLLM does not load.
NOT_LOADED = ["*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "original/*"]


def download(model: str) -> Path:
    """Fetch what is missing of `model` (a hub's id) from Hugging Face, or from ModelScope with VLLM_USE_MODELSCOPE.

    Returns: the folder in the hub's cache. Raises: OSError: hub not reached, model not there or not allowed;
    ValueError: not an id.
    """
    # The words that vLLM itself takes for true.
    if os.environ.get("VLLM_USE_MODELSCOPE", "").strip().lower() in ("1", "true"):
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    return Path(snapshot_download(model, ignore_patterns=NOT_LOADED))
