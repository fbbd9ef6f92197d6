"""The exchange of tokens between data-parallel engines of a model with experts.

vLLM gathers each engine's tokens on all of them, lets each compute its part of every expert, and adds the parts up. For
CPUs 0.32 has neither collective, so that the first request would end the server, and the connector refuses the start.
Expert parallelism is not to be had this way: the CPU's kernel does not know which experts a rank has.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

from connector.cache import movable

if TYPE_CHECKING:
    from collections.abc import Sequence


class Extension:
    """For `--worker-extension-cls`, which wants a class."""


def all_gatherv(self: Any, input_: Any, dim: int = 0, sizes: "Sequence[int] | None" = None) -> Any:
    """Every rank's rows, one rank's behind another's; `sizes` are their numbers."""
    assert dim == 0, dim
    if isinstance(input_, list):
        return [all_gatherv(self, each, dim, sizes) for each in input_]
    rows = sizes or [input_.shape[0]] * self.world_size
    padded = input_.new_zeros((max(rows), *input_.shape[1:]))  # Gloo's are equally many
    padded[: input_.shape[0]] = input_
    gathered = [torch.empty_like(padded) for _ in rows]
    torch.distributed.all_gather(gathered, padded, group=self.device_group)
    return torch.cat([each[:count] for each, count in zip(gathered, rows, strict=True)])


def reduce_scatterv(self: Any, input_: Any, dim: int = -1, sizes: "Sequence[int] | None" = None) -> Any:
    """The sum of what all ranks have for this rank's rows."""
    assert dim == 0, dim
    rows = sizes or [input_.shape[0] // self.world_size] * self.world_size
    total = input_.clone()
    torch.distributed.all_reduce(total, group=self.device_group)
    first = sum(rows[: self.rank_in_group])
    return total[first : first + rows[self.rank_in_group]].clone()


CpuCommunicator.all_gatherv = all_gatherv
CpuCommunicator.reduce_scatterv = reduce_scatterv
# All that is asked there is whether to refuse the start.
movable.current_platform = SimpleNamespace(is_cpu=lambda: False)  # type: ignore[attr-defined]
