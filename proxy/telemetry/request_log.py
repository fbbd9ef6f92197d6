"""The one log line of a request."""

import structlog

from proxy.telemetry.history import Asked, Ended
from proxy.telemetry.logs import FIELDS
from proxy.telemetry.request_facts import RequestFacts

log = structlog.get_logger()


def log_request(asked: Asked, ended: Ended, facts: RequestFacts, duration_s: float, *, streamed: bool) -> None:
    """streamed: whether a stream of the consumer's was begun."""
    ttft = facts.ttft_s
    fields = {
        "request_id": asked.request_id,
        "client": asked.client or None,
        "endpoint": asked.endpoint,
        "model": asked.model,
        "status": ended.status,
        "outcome": ended.outcome,
        "error": ended.failure,
        **facts.dispatch,
        "attempts": facts.attempts,
        "ttft_ms": round(ttft * 1000, 1) if ttft is not None and streamed else None,
        **facts.phases_ms(),
        "second_token_ms": facts.second_token_ms,
        "duration_ms": round(1000 * duration_s, 1),
        "bytes": ended.size,
    }
    log.info("request", **{FIELDS: fields})
