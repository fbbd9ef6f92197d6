"""The exchange of tokens between data-parallel engines of a model with experts.

vLLM gathers each engine's tokens on all of them, lets each compute its part of every expert, or all of some experts
(`--enable-expert-parallel`), and adds the parts up. For CPUs 0.32 has neither collective, so that the first request
would end the server, and the connector refuses the start; nor does its kernel know which experts a rank has.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

from connector.cache import movable
from connector.first_token.scheduler import scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence


# The second is for `--scheduler-cls`: an engine refuses the start as its workers do, and imports this before.
__all__ = ["Extension", "scheduler"]


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


_apply = CPUUnquantizedExperts.apply


def apply(self: Any, *, topk_weights: Any, topk_ids: Any, expert_map: Any, **more: Any) -> None:
    """Others' experts count nothing here. `expert_map`: by expert its number among this rank's, or -1."""
    if expert_map is not None:
        here = expert_map[topk_ids.long()]
        topk_weights = topk_weights.masked_fill(here < 0, 0)
        topk_ids = here.clamp(min=0).to(topk_ids.dtype)
    _apply(self, topk_weights=topk_weights, topk_ids=topk_ids, expert_map=None, **more)


CPUUnquantizedExperts.apply = apply
CpuCommunicator.all_gatherv = all_gatherv
CpuCommunicator.reduce_scatterv = reduce_scatterv
# All that is asked there is whether to refuse the start.
movable.current_platform = SimpleNamespace(is_cpu=lambda: False)  # type: ignore[attr-defined]
