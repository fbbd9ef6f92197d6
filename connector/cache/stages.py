"""Pipeline stages: each has some of the model's layers, split over as many ranks as any other stage's.

A rank's number is `stage * ranks of a stage + rank within the stage`, as vLLM numbers them. Which layers a stage has is
known to its ranks alone (`VLLM_PP_LAYER_PARTITION`, drafts and odd numbers of layers make them unequal), so a consumer
asks every stage for all that it lacks, and each gives what it has. Pure arithmetic.
"""

from collections.abc import Sequence
from dataclasses import replace

from connector.cache.heads import Source
from connector.cache.layout import KVLayout


def over_stages(plan: Sequence[Sequence[Source]], stages: int, producer_stages: int) -> list[list[Source]]:
    """By number of the consumer's rank, who fills it.

    Args: plan: who fills each rank of one stage from the ranks of one stage (`heads.sources`).
    """
    producer_ranks = 1 + max(source.rank for own in plan for source in own)
    one_stage = [
        [
            replace(source, rank=stage * producer_ranks + source.rank, shares=source.shares * stages)
            for stage in range(producer_stages)
            for source in own
        ]
        for own in plan
    ]
    return one_stage * stages


def refuse_disagreement(layouts: Sequence[KVLayout]) -> None:
    """Raises: ValueError: for ranks of an instance of which one counts blocks or groups otherwise than the first."""
    first = layouts[0]
    for number, layout in enumerate(layouts):
        for what in ("groups", "num_blocks", "facts", "lookahead", "stages"):
            ours, theirs = getattr(first, what), getattr(layout, what)
            if ours != theirs:
                raise ValueError(f"rank {number} has {what} {theirs}, rank 0 {ours}: expected the same on all ranks")
