"""One try at one request: a fresh transfer id, a pair of instances, and both legs dispatched at once.

The consumer's answer decides. The producer is only listened to while the consumer has not answered: its failure then
fails the try, because the consumer would wait for blocks that never come.
"""

import asyncio
import uuid
from dataclasses import dataclass

from proxy.completion_request import CompletionRequest, Endpoint
from proxy.dispatch import Pair
from proxy.errors import LegFailed
from proxy.gateway import Gateway
from proxy.legs import Answer, Call, Deadline
from stack.instances import Instance


@dataclass(frozen=True)
class Deadlines:
    """first_token: when the producer must be done and a stream must have begun; total: when everything must be over."""

    first_token: Deadline
    total: Deadline


class Attempt:
    """Dispatches in its constructor; ends with `finish` or `cancel`, and a failed `answer` has already cancelled."""

    def __init__(
        self,
        gateway: Gateway,
        request: CompletionRequest,
        endpoint: Endpoint,
        request_id: str,
        pair: Pair,
        deadlines: Deadlines,
    ) -> None:
        self.pair = pair
        self.transfer_id = uuid.uuid4().hex
        self.failed: set[str] = set()
        self._fleet = gateway.fleet
        self._metrics = gateway.metrics
        self._consumer_busy = True
        to_producer = Call(pair.producer, endpoint.path, request.prefill_body(self.transfer_id), request_id)
        to_consumer = Call(
            pair.consumer, endpoint.path, request.decode_body(self.transfer_id, pair.producer), request_id
        )
        self._fleet.begin(pair.producer)
        self._fleet.begin(pair.consumer)
        self._prefill = asyncio.create_task(gateway.legs.prefill(to_producer, deadlines.first_token))
        self._decode = asyncio.create_task(
            gateway.legs.decode(to_consumer, deadlines.first_token if request.stream else deadlines.total)
        )
        self._prefill.add_done_callback(self._prefill_ended)
        self._decode.add_done_callback(self._decode_answered)

    async def answer(self) -> Answer:
        """The consumer's answer, its first chunk included.

        Raises: the failure of either leg.
        """
        try:
            await asyncio.wait((self._prefill, self._decode), return_when=asyncio.FIRST_COMPLETED)
            if not self._decode.done():
                self._prefill.result()
                await asyncio.wait((self._decode,))
            return self._decode.result()
        except BaseException:
            self.cancel()
            raise

    def finish(self) -> None:
        """The consumer's answer is complete. A producer that still writes its own is left to it."""
        if self._consumer_busy:
            self._consumer_busy = False
            self._fleet.end(self.pair.consumer)

    def cancel(self) -> None:
        """Nobody waits any more: closes both connections, wherever they are."""
        self._prefill.cancel()
        if not self._decode.cancel() and not self._decode.cancelled() and self._decode.exception() is None:
            self._decode.result().close()
        self.finish()

    def _prefill_ended(self, task: "asyncio.Task[None]") -> None:
        self._fleet.end(self.pair.producer)
        self._note_failure(self.pair.producer, task)

    def _decode_answered(self, task: "asyncio.Task[Answer]") -> None:
        self._note_failure(self.pair.consumer, task)

    def _note_failure(self, instance: Instance, task: "asyncio.Task[None] | asyncio.Task[Answer]") -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._metrics.leg_failed(instance.role, error)
        if isinstance(error, LegFailed):
            self.failed.add(instance.instance_id)
