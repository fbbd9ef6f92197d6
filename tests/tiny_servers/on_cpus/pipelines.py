"""Buffers between the stages of a pipeline.

vLLM's first model runner makes the buffer that a later stage receives into in its dummy run. On a CPU 0.32 leaves that
out where it compiles nothing and the cache's size is given, and its first step fails.
"""

from typing import Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

_gather = GPUModelRunner.sync_and_gather_intermediate_tensors


class Extension:
    """For `--worker-extension-cls`, which wants a class."""


def _gather_into_a_buffer(self: GPUModelRunner, *args: Any, **more: Any) -> Any:
    if self.intermediate_tensors is None:
        self.intermediate_tensors = self.model.make_empty_intermediate_tensors(
            batch_size=self.max_num_tokens, dtype=self.model_config.dtype, device=self.device
        )
    return _gather(self, *args, **more)


GPUModelRunner.sync_and_gather_intermediate_tensors = _gather_into_a_buffer
