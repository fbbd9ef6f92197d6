"""The proxy's own question to an instance: how it is, and one token of a prompt that no client has any part in."""

import asyncio

import aiohttp
import orjson

from proxy.errors import InstanceError, TooManyConnections
from proxy.instances.instance_session import open_session, pinned
from proxy.request.random_id import random_id
from proxy.settings import ProxySettings
from proxy.verdict import evidence
from proxy.verdict.circuit import Finding, Question
from stack.instances.record import Instance

PROMPT = "San Francisco is a"


class Questions:
    """Each goes over a connection of its own: one that was kept can have been closed by a healthy instance."""

    def __init__(self, settings: ProxySettings) -> None:
        self._session = open_session(settings, aiohttp.TCPConnector(limit=0, force_close=True))

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, instance: Instance, question: Question, within_s: float) -> Finding:
        try:
            async with asyncio.timeout(within_s):
                return await self._answer(instance, question)
        except aiohttp.ClientError as error:  # before TimeoutError: a connection that times out is both
            return "silent" if isinstance(evidence.lost(instance, error), TooManyConnections) else "ill"
        except TimeoutError:
            return "silent"

    async def _answer(self, instance: Instance, question: Question) -> Finding:
        # The launcher registers an instance once this is 200.
        async with self._session.get(instance.url + "/health", allow_redirects=False) as answer:
            if answer.status != 200:
                return "ill"
        model = _model(instance)
        if question == "health" or model is None:
            return "well"
        body = orjson.dumps({"model": model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0})
        headers = pinned({"X-Request-Id": f"proxy-check-{random_id()}"}, instance)
        url = instance.url + "/v1/completions"
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            refused = evidence.refusal(instance, answer.status, await answer.read(), None)
        if refused is None:
            return "well"
        return "ill" if isinstance(refused, InstanceError) else "alive"


def _model(instance: Instance) -> str | None:
    """Not an adapter, which can be unloaded at any time."""
    adapters = {adapter.id for adapter in instance.adapters}
    return next((name for name in instance.served_models if name not in adapters), None)
