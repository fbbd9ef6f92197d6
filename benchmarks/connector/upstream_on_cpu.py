"""vLLM's own MooncakeConnector, made to start on a CPU; vLLM loads it by `kv_connector_module_path`.

It asks for the index of the current accelerator, which raises where there is none. Nothing else of it is changed.
"""

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.mooncake_connector import MooncakeConnector

__all__ = ["MooncakeConnector"]


def _no_index() -> int:
    return 0


torch.accelerator.current_device_index = _no_index
