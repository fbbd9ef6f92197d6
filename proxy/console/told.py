"""Past requests as JSON: a row of the table, and all that is known of one."""

from typing import Any

from proxy.telemetry.history import PastRequest
from proxy.telemetry.request_facts import AttemptFacts, RequestFacts
from proxy.telemetry.timeline import Chunk, Written, timeline_of

Json = dict[str, Any]


def row(past: PastRequest, worker: int) -> Json:
    """Args: worker: the process that served it. Times in ms, `at` in Unix seconds."""
    facts, asked, ended = past.facts, past.asked, past.ended
    ttft, itl = facts.ttft_s, past.itl_s
    return {
        "key": f"{worker}-{past.key}",
        "worker": worker,
        "at": past.at,
        "request_id": asked.request_id,
        "client": asked.client or None,
        "endpoint": asked.endpoint,
        "model": asked.model,
        "status": ended.status,
        "outcome": ended.outcome,
        "failure": ended.failure,
        "stream": facts.stream,
        "attempts": facts.attempts,
        "events": ended.events,
        "bytes": ended.size,
        "ttft_ms": ms(ttft) if facts.stream else None,
        "itl_ms": ms(itl),
        "second_token_ms": facts.second_token_ms,
        "duration_ms": ms(past.duration_s),
        "phases_ms": {name: ms(seconds) for name, seconds in facts.phases.items()},
        "recomputed": facts.path == "disaggregated" and facts.transfer.get("bytes") == 0,
        **facts.dispatch,
    }


def whole(past: PastRequest, worker: int) -> Json:
    """`headers` are those of the answer, once more: what the waterfall adds up to is in them as Server-Timing."""
    facts = past.facts
    tries = [*facts.earlier, *((facts.attempt,) if facts.attempt else ())]
    return row(past, worker) | {
        "first_ms": ms(facts.ttft_s),
        "transfer": {name: value for name, value in facts.transfer.items() if name != "timeline"},
        **_timeline(facts),
        "headers": {"X-Request-Id": past.asked.request_id, **facts.headers()},
        "tries": [_told_try(each, facts.arrived_at) for each in tries],
    }


def _timeline(facts: RequestFacts) -> Json:
    """`at_ms` is after the end of the prefill."""
    writes, chunks = timeline_of(facts.transfer)
    return {"writes": [_in_ms(write) for write in writes], "chunks": [_in_ms(chunk) for chunk in chunks]}


def _in_ms(row: Written | Chunk) -> Json:
    other = {name: value for name, value in row._asdict().items() if name not in ("at", "seconds")}
    return other | {"at_ms": ms(row.at), "ms": ms(row.seconds)}


def _told_try(attempt: AttemptFacts, arrived_at: float) -> Json:
    route = attempt.route
    ends = {"dispatched": attempt.dispatched_at, "prefilled": attempt.prefilled_at, "answered": attempt.answered_at}
    return {
        "producer": route.producer.instance_id if route.producer else None,
        "consumer": route.consumer.instance_id,
        "reason": route.reason,
        "prefill_tokens": route.prefill_tokens,
        "decode_tokens": route.decode_tokens,
        "transfer_id": attempt.transfer_id,
        **{f"{name}_ms": None if at is None else ms(at - arrived_at) for name, at in ends.items()},
    }


def ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)
