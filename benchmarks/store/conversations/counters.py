"""What the instances and the proxy have counted meanwhile: where prompts' tokens came from."""

import json
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import exposition
from benchmarks.errors import CannotStart
from benchmarks.whole_stack.stack_side import Target
from stack.network.direct_http import open_directly

BY_SOURCE = "vllm:prompt_tokens_by_source_total"
# vLLM's words for where a prompt's tokens came from, and ours; of a producer the external ones are the store's, of a
# consumer the producer's.
SOURCES = {"local_cache_hit": "local", "external_kv_transfer": "external", "local_compute": "computed"}
STORE_TOKENS, STORE_PROMPTS = "pd_proxy_store_tokens_total", "pd_proxy_store_prompts_total"
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Counters:
    """Since the start of each. `instances`: by address, their role and tokens by SOURCES; `proxy`: of the store."""

    instances: Mapping[str, tuple[str, Mapping[str, int]]]
    proxy: Mapping[str, int]

    def since(self, before: "Counters") -> dict[str, Any]:
        """Tokens by role and source, and what the proxy counted, as JSON can hold it.

        Raises: CannotStart: an instance has begun anew, or is not the same.
        """
        tokens: dict[str, dict[str, int]] = {}
        for url, (role, found) in self.instances.items():
            earlier = before.instances.get(url, ("", {}))[1]
            gained = {name: number - earlier.get(name, 0) for name, number in found.items()}
            if url not in before.instances or min(gained.values()) < 0:
                raise CannotStart(f"{url}: was started anew during the measurement; the same command makes it again")
            of_role = tokens.setdefault(role, dict.fromkeys(SOURCES.values(), 0))
            for name, number in gained.items():
                of_role[name] += number
        proxy = {name: number - before.proxy.get(name, 0) for name, number in self.proxy.items()}
        return {"tokens": tokens, "proxy": proxy}


def read(target: Target) -> Counters:
    """Of all that the proxy knows. Raises: CannotStart."""
    roles = {each["url"]: each["role"] for each in json.loads(_get(f"{target.url}/instances"))["instances"]}
    instances = {url: (role, _tokens(url)) for url, role in sorted(roles.items())}
    text = _get(f"{target.url}/metrics")
    prompts = exposition.by_label(text, STORE_PROMPTS, "result")
    loaded = int(exposition.totals(text).get(STORE_TOKENS, 0))
    proxy = {"loaded_tokens": loaded, **{result: int(prompts.get(result, 0)) for result in ("hit", "miss")}}
    return Counters(instances, proxy)


def _tokens(url: str) -> dict[str, int]:
    found = exposition.by_label(_get(f"{url}/metrics"), BY_SOURCE, "source")
    if missing := [source for source in SOURCES if source not in found]:
        raise CannotStart(f"{url}/metrics: no {BY_SOURCE} of {missing[0]}: expected a vLLM that counts it")
    return {name: int(found[source]) for source, name in SOURCES.items()}


def _get(url: str) -> str:
    try:
        with open_directly(url, TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        raise CannotStart(f"{url}: {getattr(error, 'reason', error)}") from error
