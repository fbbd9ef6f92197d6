"""What the connector says, in vLLM's form."""

import logging


def log_as_vllm() -> None:
    """vLLM sets up its own loggers only: what the connector says would have no time, process or level."""
    ours, vllm = logging.getLogger("connector"), logging.getLogger("vllm")
    ours.handlers, ours.propagate = list(vllm.handlers), vllm.propagate
    ours.setLevel(vllm.level)
