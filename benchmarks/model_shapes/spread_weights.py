"""What `--load-format dummy` loads in the servers of a shape; for vLLM's workers alone.

They import it for `--worker-extension-cls` before they load a model, which replaces vLLM's loader of that name. Equal
names have equal weights in every server, on the same kind of device.
"""

import zlib

import torch
from vllm.config import ModelConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

from benchmarks.model_shapes.bounds import bounds, is_norm


class WorkerExtension:
    """Adds nothing to a worker: it is there to have this module imported."""


@register_model_loader("dummy")
class SpreadWeightsLoader(DummyModelLoader):
    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        for name, weight in model.named_parameters():
            _spread(name, weight.data)


def _spread(name: str, weight: torch.Tensor) -> None:
    generator = torch.Generator(weight.device).manual_seed(zlib.crc32(name.encode()))
    low, high = bounds(name, weight.shape)
    if is_norm(name, weight.shape):
        weight += torch.empty_like(weight).uniform_(low, high, generator=generator)
    else:
        weight.uniform_(low, high, generator=generator)
