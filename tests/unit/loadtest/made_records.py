"""Records of requests that nobody made, for the tests of what is computed from records."""

from collections.abc import Sequence
from typing import Any

from loadtest.figures.record import RequestRecord


def answered(at: float, ttft: float = 0.5, gaps: Sequence[float] = (0.1, 0.1, 0.1, 0.1), **more: Any) -> RequestRecord:
    """A completed request, scheduled and sent at `at`; as many tokens as chunks."""
    end = at + ttft + sum(gaps)
    given: dict[str, Any] = {
        "index": 0,
        "outcome": "completed",
        "scheduled": at,
        "started": at,
        "first_content": at + ttft,
        "itl": tuple(gaps),
        "finished": end,
        "ended": end,
        "output_tokens": len(gaps) + 1,
    }
    return RequestRecord(**given | more)


def unanswered(at: float, lasted: float = 0.2, error: str = "HttpError", **more: Any) -> RequestRecord:
    given: dict[str, Any] = {"index": 0, "outcome": "failed", "scheduled": at, "started": at, "ended": at + lasted}
    return RequestRecord(**given | {"error": error} | more)
