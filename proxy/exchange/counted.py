"""What is counted of one answer on its way to the client, and what that teaches of prompts and answers to come."""

from proxy.exchange import usage
from proxy.exchange.attempt import Attempt
from proxy.exchange.legs import Answer
from proxy.request.prompt import Prompt
from proxy.routing.token_estimate import TokenEstimate
from proxy.telemetry.request_facts import RequestFacts

_DATA = b"data: "
_LINE = b"\n" + _DATA


class Counted:
    """Its bytes and events; only of a stream do the events mean anything."""

    def __init__(self, facts: RequestFacts) -> None:
        self.bytes = 0
        self.events = 0
        self._facts = facts

    async def take(self, answer: bytes, attempt: Attempt | None) -> bytes:
        """Returns: the answer, or some events of it, with the client's `usage`."""
        self.bytes += len(answer)
        # At the beginning of a line: what a model writes may hold the same, but no line's end outside of its quotes.
        self.events += answer.startswith(_DATA) + answer.count(_LINE)
        if self._facts.path == "disaggregated" and usage.counts_cached(answer):
            transfer = self._facts.transfer
            if attempt is not None:
                await attempt.producer_answered()
            prefill = attempt.prefill_answer if attempt else None
            found = usage.of_prefill(prefill) if prefill is not None else None
            moved = transfer.get("tokens", transfer.get("expected_tokens"))
            return usage.corrected(answer, found, moved, transfer.get("left_out", 0))
        return answer

    def teach(self, estimate: TokenEstimate, model: str, prompt: Prompt, answer: Answer, attempt: Attempt) -> None:
        """How long the prompt and the answer, which has come to its end, really were."""
        whole = b"" if answer.is_stream else answer.first
        prompt_tokens = usage.tokens(attempt.prefill_answer or whole, "prompt_tokens")
        output_tokens = self.events if answer.is_stream else usage.tokens(whole, "completion_tokens")
        if prompt_tokens is not None and output_tokens is not None:
            estimate.learn(model, prompt, prompt_tokens, output_tokens)
