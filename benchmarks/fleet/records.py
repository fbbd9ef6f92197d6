"""Instances as launchers would write them, on addresses of the loopback that one scripted server listens on."""

import time
from collections.abc import Sequence

from benchmarks.proxy.upstreams.answers import MODEL
from stack import etcd
from stack.instances.record import PREFIX, Instance, Role

FACTS = (
    "model",
    "weights",
    "tokenizer",
    "dtype",
    "block_size",
    "vllm_version",
    "connector_version",
    "--kv-cache-dtype",
)


def address(number: int) -> str:
    """Each instance has one of its own: two at one URL are a restarted server and its old record."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def fleet(number: int, port: int) -> list[Instance]:
    """Half of them producers; in JSON about 2 KB each, with the ranks of eight GPUs."""
    return [record("decode" if place % 2 else "prefill", place, port) for place in range(number)]


def record(role: Role, place: int, port: int) -> Instance:
    host = address(place)
    name = f"{role}-{place:04}-0f1e2d3c4b5a6978"
    ranks = [{"rank": rank, "control": f"tcp://{host}:{20_000 + rank}", "name": f"{name}-{rank}"} for rank in range(8)]
    return Instance(
        role=role,
        instance_id=name,
        url=f"http://{host}:{port}",
        served_models=(MODEL,),
        models=({"id": MODEL, "object": "model", "created": 1700000000, "owned_by": "vllm", "permission": [{}] * 8},),
        model=MODEL,
        max_model_len=32768,
        block_size=16,
        dtype="bfloat16",
        tensor_parallel_size=8,
        fingerprint="0f1e2d3c4b5a69788796a5b4c3d2e1f0" * 2,
        pairing=dict.fromkeys(FACTS, "0f1e2d3c4b5a69788796a5b4c3d2e1f0" * 2),
        kv_transfer={"engine_id": name, "ranks": ranks},
        transports=("rdma", "tcp"),
        vllm_version="0.32.0",
        connector_version="0.1.0",
        started_at=time.time(),
    )


def register(endpoint: str, instances: Sequence[Instance]) -> None:
    """Instead of all that were there."""
    with etcd.connect(endpoint) as client:
        client.delete_prefix(PREFIX)
        for instance in instances:
            client.put(instance.key, instance.model_dump_json())
