"""Clients that use the stack all the time a test does something to it, and what became of each of their requests."""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stack.configuration.settings import EMBEDDED_MODEL

REQUEST_LIMIT_S = 180.0
PAUSE_S = 0.2
# The proxy takes four bytes for a token and splits a prompt from 96 of them on: this is one of about 150.
PROMPT = "What is the next number after forty-two? " * 15


@dataclass(frozen=True)
class Outcome:
    """began: by the monotonic clock. path, consumer: what the answer's x-pd-… headers say.

    failure: empty after a stream that ended with [DONE].
    """

    began: float

    path: str
    consumer: str
    failure: str


@dataclass
class Traffic:
    url: str
    tokens: int
    outcomes: list[Outcome] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def failures(self) -> list[str]:
        return [outcome.failure for outcome in self.outcomes if outcome.failure]

    def used(self, address: str) -> bool:
        """Whether the instance at this address has made tokens for anybody."""
        return any(address in outcome.consumer for outcome in self.outcomes)

    def go_on(self) -> None:
        while not self.stopping.is_set():
            # A beginning of its own: a prompt that its consumer knows already would not be split.
            self.outcomes.append(stream(self.url, f"{uuid.uuid4().hex} {PROMPT}", self.tokens))
            self.stopping.wait(PAUSE_S)


def counting(last: int) -> str:
    """A prompt of about 3.6 tokens a number."""
    return " ".join(map(str, range(1, last + 1)))


def request(url: str, prompt: str, tokens: int, **fields: Any) -> urllib.request.Request:
    body = {"model": EMBEDDED_MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body | fields).encode(), {"Content-Type": "application/json"}
    )


def stream(url: str, prompt: str, tokens: int) -> Outcome:
    began = time.monotonic()
    path, consumer, failure, last = "", "", "", ""
    try:
        with urllib.request.urlopen(request(url, prompt, tokens, stream=True), timeout=REQUEST_LIMIT_S) as answer:
            path, consumer = answer.headers["x-pd-path"], answer.headers["x-pd-consumer"]
            for line in answer:
                if line.startswith(b"data:"):  # the proxy's comment comes after [DONE]
                    last = line.decode().strip()
        if last != "data: [DONE]":
            failure = f"a stream that ends with {last!r}"
    except urllib.error.HTTPError as error:
        failure = f"{error.code}: {error.read().decode(errors='replace')[:300]}"
    except (OSError, http.client.HTTPException) as error:
        failure = repr(error)
    return Outcome(began, path, consumer, failure)


@contextmanager
def traffic(url: str, clients: int = 2, tokens: int = 24) -> Iterator[Traffic]:
    """Streams by so many clients until the context ends, each of which is then waited for."""
    flowing = Traffic(url, tokens)
    threads = [threading.Thread(target=flowing.go_on, name=f"client {number}") for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield flowing
    finally:
        flowing.stopping.set()
        for thread in threads:
            thread.join()
