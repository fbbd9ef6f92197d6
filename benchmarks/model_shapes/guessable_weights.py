"""What `--load-format dummy` loads where a head is to guess well; for vLLM's workers alone, as spread_weights.py.

vLLM loads a draft with the loader of the target, so that it gets its weights here too.
"""

import zlib

import torch
from vllm.config import ModelConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

from benchmarks.model_shapes.guessable import Fill, weight


class WorkerExtension:
    """Adds nothing to a worker: it is there to have this module imported."""


@register_model_loader("dummy")
class GuessableWeightsLoader(DummyModelLoader):
    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        for name, parameter in model.named_parameters():
            _fill(name, parameter.data)


def _fill(name: str, values: torch.Tensor) -> None:
    found = weight(name, values.shape)
    if found.fill is Fill.ZERO:
        values.zero_()
    elif found.fill is Fill.FIRST_HALF:
        torch.nn.init.eye_(values)
    elif found.fill is not Fill.AS_IT_IS:
        generator = torch.Generator(values.device).manual_seed(zlib.crc32(found.name.encode()))
        values.uniform_(-found.high, found.high, generator=generator)
        if found.fill is Fill.UNIT_ROWS:
            values /= values.square().mean(-1, keepdim=True).sqrt()
