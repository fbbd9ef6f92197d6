"""Stand-ins for vLLM's requests and step outputs, as the scheduler's side of the connector sees them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

CONTROL = ["tcp://p:1", "tcp://p:2"]
PRODUCER = {"engine_id": "p0", "control": CONTROL}


def request(number: int = 1, prompt: int = 10, computed: int = 0, **params: Any) -> Any:
    return SimpleNamespace(
        request_id=f"r{number}",
        prompt_token_ids=list(range(prompt)),
        num_prompt_tokens=prompt,
        num_computed_tokens=computed,
        kv_transfer_params=params,
    )


def prefill(number: int = 1, prompt: int = 10) -> Any:
    return request(number, prompt, do_remote_decode=True, transfer_id=f"t{number}")


def decode(number: int = 1, prompt: int = 10, transfer: str = "", producer: Any = PRODUCER) -> Any:
    return request(number, prompt, do_remote_prefill=True, transfer_id=transfer or f"t{number}", producer=producer)


def output(
    tokens: dict[str, int] | None = None, tables: dict[str, list[int]] | None = None, preempted: Sequence[str] = ()
) -> Any:
    scheduled = tokens or {}
    known = {name: (table,) for name, table in (tables or {}).items()}
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        preempted_req_ids=set(preempted),
        kv_connector_block_state=SimpleNamespace(get_block_ids=known.get),
    )
