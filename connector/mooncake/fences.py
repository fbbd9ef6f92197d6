"""When a step's K and V are really in memory: at once on a CPU, behind an event on a GPU."""

import queue
import threading
from collections.abc import Callable
from typing import Protocol

import torch


class Fences(Protocol):
    """Calls back once everything that was computed before the call is in memory; callbacks keep their order."""

    def after(self, callback: Callable[[], None]) -> None: ...

    def drain(self) -> None:
        """Returns when every callback so far has run."""

    def caught_up(self) -> bool:
        """Whether everything that was computed before this was asked the last time is in memory by now."""


class HostFences:
    """On a CPU a hook runs after its layer has been written."""

    def after(self, callback: Callable[[], None]) -> None:
        callback()

    def drain(self) -> None:
        pass

    def caught_up(self) -> bool:
        return True


class DeviceFences:
    """On a GPU a hook runs when its layer is only enqueued: a thread waits for an event on the current stream, without
    the GIL, so that neither vLLM's thread nor a sender waits for the whole stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._asked = torch.cuda.Event()  # never recorded, it counts as passed
        self._queue: queue.SimpleQueue[tuple[torch.cuda.Event, Callable[[], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="kv-fences", daemon=True).start()

    def after(self, callback: Callable[[], None]) -> None:
        event = torch.cuda.Event()
        event.record()
        self._queue.put((event, callback))

    def drain(self) -> None:
        drained = threading.Event()
        self.after(drained.set)
        drained.wait()

    def caught_up(self) -> bool:
        reached = bool(self._asked.query())
        self._asked = torch.cuda.Event()
        self._asked.record()
        return reached

    def _run(self) -> None:
        torch.cuda.set_device(self._device)
        while True:
            event, callback = self._queue.get()
            event.synchronize()
            callback()
