"""Prefill instances that share a scripted store and say where they found a prompt's cache, as vLLM's metrics do."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from benchmarks.connector.topology.routes import Route
from tests.unit.benchmarks.scripted_vllm import ScriptedVllm, serve, url

BLOCK_TOKENS = 32
Prompt = tuple[int, ...]


@dataclass
class ScriptedProducer(ScriptedVllm):
    """`store`: prompts that it has, None without one; what is computed gets there after `saving` looks at /metrics."""

    store: set[Prompt] | None = None
    saving: int = 0
    counts: bool = True
    loads_fail: bool = False
    own: set[Prompt] = field(default_factory=set)
    hits: dict[str, int] = field(default_factory=lambda: {"prefix_cache": 0, "external_prefix_cache": 0})
    unsaved: list[Prompt] = field(default_factory=list)
    looks_left: int = 0
    failed_keys: int = 0

    @property
    def prompts(self) -> list[Prompt]:
        """That it was asked for and that have whole blocks."""
        return [tuple(body["prompt"]) for body in self.asked if len(body["prompt"]) > BLOCK_TOKENS]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = await super().answer(request)
        prompt = tuple(self.asked[-1]["prompt"])
        blocks = (len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        if prompt in self.own:
            self.hits["prefix_cache"] += blocks
        elif self.store is not None and prompt in self.store:
            self.hits["external_prefix_cache"] += blocks
            self.failed_keys += self.loads_fail * blocks // BLOCK_TOKENS
        elif blocks:
            self.unsaved.append(prompt)
            self.looks_left = self.saving
        self.own.add(prompt)
        return response

    async def metrics(self, request: web.Request) -> web.Response:
        busy = self.looks_left > 0
        self.looks_left -= busy
        if not busy and self.store is not None:
            self.store.update(self.unsaved)
            self.unsaved.clear()
        lines = [f'vllm:num_requests_{state}{{engine="0"}} 0.0' for state in ("running", "waiting")]
        lines.append(f'vllm:kv_cache_usage_perc{{engine="0"}} {0.5 * busy}')
        if self.counts:
            lines += [f'vllm:{name}_hits_total{{engine="0"}} {float(count)}' for name, count in self.hits.items()]
        if self.failed_keys:
            labels = '{engine="0",operation="load_get",status="partial_failure"}'
            lines.append(f"vllm:mooncake_store_operation_failed_keys_total{labels} {float(self.failed_keys)}")
        return web.Response(text="\n".join(lines) + "\n")


@asynccontextmanager
async def routes_to(**producers: ScriptedProducer) -> AsyncIterator[dict[str, Route]]:
    async with AsyncExitStack() as stack:
        found = {}
        for name, producer in producers.items():
            server = await serve(producer)
            stack.push_async_callback(server.close)
            found[name] = Route(name, url(server))
        yield found
