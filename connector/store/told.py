"""What a producer's answer says of the store: how many tokens of its prompt were loaded from there.

Only to the proxy, whose prefill leg names a transfer; a client's own answer is not added to.
"""

from collections.abc import Mapping
from typing import Any

STORE_TOKENS = "store_tokens"


class LoadedTokens:
    """By the request that runs."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}

    def begins(self, request_id: str, tokens: int) -> None:
        """A load; after a preemption there may be another, which counts in its place."""
        self._tokens[request_id] = tokens

    def of(self, request_id: str) -> int:
        """For which its load was begun; 0 without one."""
        return self._tokens.get(request_id, 0)

    def failed(self, request_id: str) -> None:
        """The prompt is computed after all."""
        self._tokens.pop(request_id, None)

    def ended(self, request_id: str, asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What joins the answer's `kv_transfer_params`; `asked` are the request's own."""
        tokens = self._tokens.pop(request_id, 0)
        return {STORE_TOKENS: tokens} if asked and asked.get("do_remote_decode") else None
