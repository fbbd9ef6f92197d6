"""vLLM's own schedulers with ours in front, over a model that is a sum.

    python -m tests.integration.first_token.drive_schedulers MODEL

In vLLM's environment. MODEL is a folder with a config. On a CPU no server schedules ahead of its output or has Model
Runner V2, so here a stand-in for either runner keeps what the scheduler tells it of each request, as vLLM's does, and
samples from it. On stdout, by what the prompts leave of the cache and by case: the requests whose answers are wrong,
and the free blocks before and after.
"""

import itertools
import json
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROMPTS = {"a": 33, "b": 64, "c": 95, "d": 1, "e": 63}
ANSWER_TOKENS = 40
BLOCKS, BLOCK_TOKENS = 16, 32  # of which not all answers have room at once
FULL = dict.fromkeys("abcde", 96)  # they fill it to its last block, and each needs another one for its first token
STEPS = 2000


def sampled(tokens: list[int]) -> int:
    return 3 + (sum(tokens) * 31 + len(tokens) * 7 + tokens[-1]) % 250


def answer_to(prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(ANSWER_TOKENS):
        tokens.append(sampled(tokens))
    return tokens[len(prompt) :]


@dataclass
class Runner:
    """What a model runner knows: of each request the tokens of its prompt, and of its answer."""

    v2: bool
    runs_ahead: bool
    prompts: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)

    def run(self, step: Any) -> dict[str, list[int]]:
        """By request, what it samples."""
        computed = {}
        for new in step.scheduled_new_reqs:
            self.prompts[new.req_id] = list(new.prefill_token_ids if self.v2 else new.prompt_token_ids)
            self.answers[new.req_id] = []
            computed[new.req_id] = new.num_computed_tokens
        cached = step.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            computed[name] = cached.num_computed_tokens[index]
            count = cached.num_output_tokens[index]
            if name in cached.resumed_req_ids and self.runs_ahead and count:
                self.answers[name] = list(cached.all_token_ids[name][-count:])
            del self.answers[name][count:]
        found = {}
        for name, tokens in step.num_scheduled_tokens.items():
            known = self.prompts[name] + self.answers[name]
            end = computed[name] + tokens
            assert end <= len(known), f"{name}: {end} tokens are to be computed, of which {len(known)} are known"
            found[name] = [sampled(known)] if end == len(known) else []
            self.answers[name] += found[name]
        return found


@dataclass(frozen=True)
class Case:
    v2: bool
    runs_ahead: bool
    token: str  # when the message comes: early, with the cache, or never
    fails: bool  # the loads

    def __str__(self) -> str:
        runner = "V2" if self.v2 else "V1"
        ahead = "ahead" if self.runs_ahead else "in turn"
        return f"{runner}, {ahead}, {self.token}, {'failed' if self.fails else 'loaded'}"


def drive(config: Any, case: Case, lengths: Mapping[str, int]) -> dict[str, Any]:
    import torch
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
    from vllm.v1.request import Request
    from vllm.v1.structured_output import StructuredOutputManager

    from connector.cache.layout import CacheGroup, CacheLayer, Kind, KVLayout
    from connector.control.messages import Done, FirstToken
    from connector.first_token.scheduler import scheduler as make
    from connector.scheduling.request_params import digest_of_prompt
    from connector.scheduling.steps import RankAddress
    from connector.vllm_hooks.metadata import RankMetadata, Received

    config.scheduler_config.async_scheduling = case.runs_ahead
    config.cache_config.num_gpu_blocks = BLOCKS
    spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=2, head_size=32, dtype=torch.float32)
    cache = KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(["layer"], spec)])
    init_none_hash(sha256)
    scheduler: Any = make(
        vllm_config=config,
        kv_cache_config=cache,
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
        hash_block_size=BLOCK_TOKENS,
        log_stats=True,
    )
    connector = scheduler.connector
    scheduler.use_v2_model_runner = case.v2  # which vLLM's configuration refuses without Triton
    connector.first_tokens.take_with(scheduler.engine().why_not)
    layer = CacheLayer("layer", 0, 0, 1 << 14, 1 << 13, 0, 2, 2)
    layout = KVLayout((CacheGroup(Kind.FULL, BLOCK_TOKENS),), (layer,), BLOCKS)
    address = RankAddress("tcp://127.0.0.1:9", {"tcp": "s"}, "", layout)
    connector.set_xfer_handshake_metadata_pp_aware({(0, 0): RankMetadata(address)})
    pool = scheduler.kv_cache_manager.block_pool
    free = pool.get_num_free_blocks()
    hasher = get_request_block_hasher(BLOCK_TOKENS, sha256)
    producer = {"engine_id": "p", "control": ["tcp://127.0.0.1:8"]}
    prompts, requests = {}, {}
    for number, (name, length) in enumerate(lengths.items()):
        prompts[name] = [3 + (number * 50 + place * place) % 250 for place in range(length)]
        transfer = {"do_remote_prefill": True, "transfer_id": f"t{name}", "producer": producer}
        params = SamplingParams(max_tokens=ANSWER_TOKENS, extra_args={"kv_transfer_params": transfer})
        requests[name] = Request(name, prompts[name], params, None, block_hasher=hasher)
        scheduler.add_request(requests[name])
    runner = Runner(case.v2, case.runs_ahead)
    answers: dict[str, list[int]] = {name: [] for name in prompts}
    loading: dict[str, int] = {}  # request -> steps since it was registered
    in_flight: deque[Any] = deque()
    counted: list[list[Any]] = []
    for _ in range(STEPS):
        if not scheduler.has_requests():
            break
        step = scheduler.schedule()
        for load in step.kv_connector_metadata.step.loads:
            loading[load.request_id] = 0
        in_flight.append((step, runner.run(step)))
        if case.runs_ahead and len(in_flight) < 2 and step.total_num_scheduled_tokens:
            continue
        step, found = in_flight.popleft()
        over, invalid, done = set(), set(), {}
        for name in list(loading):
            loading[name] += 1
            first = sampled(prompts[name])
            if case.token == "early" and loading[name] == 2:
                token = FirstToken(f"t{name}", "p", digest_of_prompt(requests[name]), first)
                connector.first_tokens.on_message(token)
            if loading[name] == 5:
                del loading[name]
                over.add(name)
                given = first if case.token == "with the cache" else None
                if case.fails:
                    invalid |= set(scheduler.kv_cache_manager.get_block_ids(name)[0])
                else:
                    done[name] = [Done(f"t{name}", 0, 1, 0, 1, 0.1, 0.1, "tcp", first_token=given)]
        told = KVConnectorOutput(
            finished_recving=over, invalid_block_ids=invalid, kv_connector_worker_meta=Received(done, {})
        )
        names = list(found)
        output = ModelRunnerOutput(names, {name: index for index, name in enumerate(names)}, list(found.values()))
        output.kv_connector_output = told
        for outputs in scheduler.update_from_output(step, output).values():
            for one in outputs.outputs:
                answers[one.request_id] += one.new_token_ids
            stats = outputs.scheduler_stats
            if stats is not None and stats.kv_connector_stats:
                counted += stats.kv_connector_stats["counted"]
    preempted = sum(request.num_preemptions for request in requests.values())
    scheduler.shutdown()
    return {
        "wrong": [name for name, prompt in prompts.items() if answers[name] != answer_to(prompt)],
        "free": [free, pool.get_num_free_blocks()],
        "preempted": preempted,
        "first": [row[1:3] for row in counted if row[0] == "first_tokens" for _ in range(row[3])],
    }


def main() -> None:
    from vllm.engine.arg_utils import EngineArgs

    def config() -> Any:
        return EngineArgs(**arguments()).create_engine_config()

    switch = (False, True)
    choices = (switch, switch, ("early", "with the cache", "never"), switch)
    cases = list(itertools.starmap(Case, itertools.product(*choices)))
    full = [Case(False, *choice) for choice in itertools.product(switch, ("early", "with the cache"), switch)]
    found = {
        "room": {str(case): drive(config(), case, PROMPTS) for case in cases},
        "full": {str(case): drive(config(), case, FULL) for case in full},
    }
    print(json.dumps(found), flush=True)


def arguments() -> dict[str, Any]:
    """Of an engine as the launcher starts one of a consumer."""
    extra = {
        "host": "127.0.0.1",
        "control_port": 9,
        "metadata_server": "127.0.0.1:7",
        "transport": "tcp",
        "pairing": "",
    }
    transfer = {
        "kv_connector": "StreamingMooncakeConnector",
        "kv_connector_module_path": "connector.vllm_hooks.kv_connector",
        "kv_role": "kv_consumer",
        "engine_id": "d",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": extra,
    }
    return {
        "model": sys.argv[1],
        "skip_tokenizer_init": True,
        "max_model_len": 256,
        "max_num_batched_tokens": 256,
        "max_num_seqs": 8,
        "block_size": BLOCK_TOKENS,
        "dtype": "float32",
        "enforce_eager": True,
        "kv_transfer_config": transfer,
    }


if __name__ == "__main__":
    main()
