"""Between two events of a test: waits until every thread of a producer's rank waits for the next, and judges it."""

import time
from collections.abc import Callable

from connector.transfer.producer import Producer
from tests.unit.connector.fakes import LIMIT_S
from tests.unit.connector.properties.simulated_consumers import Engine, Share
from tests.unit.connector.properties.simulated_vllm import Vllm


class AtRest:
    """What surrounds the producer's rank; whoever inherits from it makes the parts."""

    producer: Producer
    engine: Engine
    vllm: Vllm
    shares: dict[str, Share]
    senders: int

    def _quiet(self) -> None:
        """Returns when every thread waits for an event of this test, having judged what they did until then."""
        going_on = True
        while going_on:
            self._wait_until(lambda: self._senders_rest() and self._preemption_waits())
            for write in self.engine.in_flight:
                self.engine.assert_right(write)
            for share in self.shares.values():
                assert len(share.answers) <= share.asked
                if share.answers and not share.believed:
                    share.believed = True
                    share.assert_right()
            going_on = self.vllm.go_on()

    def _wait_until(self, at_rest: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        with self.engine.changed:
            while not at_rest():
                assert time.monotonic() < deadline, "it never came to rest"
                self.engine.changed.wait(0.002)  # not everything that is waited for is announced

    def _senders_rest(self) -> bool:
        transfers = self.producer._transfers.all()
        writing = sum(share.state.writing for held in transfers for share in held.shares.values())
        return writing == len(self.engine.in_flight) and not (self.producer._senders._queue and writing < self.senders)

    def _preemption_waits(self) -> bool:
        """Or there is none. It waits once the blocks are forgotten and a write still reads them."""
        preemption = self.vllm.preemption
        if preemption is None or not preemption.thread.is_alive():
            return True
        transfers = self.producer._transfers.all()
        preempted = [held for held in transfers if held.request_id in preemption.step.preempted]
        return any(share.state.writing for held in preempted for share in held.shares.values()) and not any(
            held.prompt.block_ids for held in preempted
        )
