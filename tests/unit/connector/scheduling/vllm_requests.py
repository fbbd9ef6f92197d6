"""Stand-ins for vLLM's requests and step outputs, as the scheduler's side of the connector sees them."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

CONTROL = ["tcp://p:1", "tcp://p:2"]
PRODUCER = {"engine_id": "p0", "control": CONTROL}


def request(number: int = 1, prompt: int = 10, computed: int = 0, **params: Any) -> Any:
    return SimpleNamespace(
        request_id=f"r{number}",
        prompt_token_ids=list(range(prompt)),
        prompt_embeds=None,
        prompt_is_token_ids=None,
        _all_token_ids=list(range(prompt)),
        num_prompt_tokens=prompt,
        num_computed_tokens=computed,
        max_tokens=16,
        get_skip_reading_prefix_cache=lambda: False,
        kv_transfer_params=params,
    )


def prefill(number: int = 1, prompt: int = 10) -> Any:
    return request(number, prompt, do_remote_decode=True, transfer_id=f"t{number}")


def decode(number: int = 1, prompt: int = 10, transfer: str = "", producer: Any = PRODUCER) -> Any:
    return request(number, prompt, do_remote_prefill=True, transfer_id=transfer or f"t{number}", producer=producer)


def output(
    tokens: dict[str, int] | None = None,
    tables: Mapping[str, list[int] | tuple[list[int], ...]] | None = None,
    preempted: Sequence[str] = (),
) -> Any:
    """Args: tables: by request its block table in the only group, or in each."""
    scheduled = tokens or {}
    known = {name: table if isinstance(table, tuple) else (table,) for name, table in (tables or {}).items()}
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        preempted_req_ids=set(preempted),
        kv_connector_block_state=SimpleNamespace(get_block_ids=known.get),
    )
