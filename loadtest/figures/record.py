"""What a run knows about each of its requests: a line of requests.jsonl, an entry of a worker's report to its master.

Moments are seconds since the schedule's zero, which all workers of a run share; durations are seconds.
"""

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["completed", "failed", "cut_off", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request. A value that is not known is None.

    outcome: completed: the whole answer came; failed: none did; cut_off: a part did, and then an error or nothing;
    cancelled: this client left on purpose, as the workload wanted.
    scheduled, started: when it should have been sent and when it was; the difference is the generator's own delay.
    itl: gaps between chunks with content. finished: arrival of the finish_reason. ended: when nothing more was to come.
    """

    index: int
    outcome: Outcome
    scheduled: float
    started: float
    ended: float
    first_content: float | None = None
    itl: tuple[float, ...] = ()
    finished: float | None = None

    endpoint: str = ""  # e.g. /v1/completions
    wanted_input_tokens: int | None = None
    wanted_output_tokens: int | None = None
    prompt_tokens: int | None = None  # this and the next two: the server's own usage
    cached_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None  # the class in errors.py
    message: str | None = None

    # What the stack's proxy tells; absent with other servers.
    request_id: str | None = None
    path: str | None = None  # disaggregated or local
    reason: str | None = None
    producer: str | None = None
    consumer: str | None = None
    transport: str | None = None
    kv_bytes: int | None = None
    kv_tokens: int | None = None
    store_tokens: int | None = None  # of the prompt, which the producer loaded from a KV store
    first_token: str | None = None  # who computed it, of two legs: producer or consumer
    second_token: float | None = None  # after the first; behind a producer's it has what was left of the transfer
    phases: dict[str, float] = field(default_factory=dict)  # Server-Timing: queue, prefill, transfer, first_step

    @property
    def start_delay(self) -> float:
        return self.started - self.scheduled

    @property
    def ttft(self) -> float | None:
        """From the scheduled start: counting from the actual one would hide the queue in front of a slow server."""
        return None if self.first_content is None else self.first_content - self.scheduled

    @property
    def tpot(self) -> float | None:
        if self.first_content is None or self.finished is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.finished - self.first_content) / (self.output_tokens - 1)

    @property
    def end_to_end(self) -> float:
        return self.ended - self.scheduled
