"""Which stacks the tests start beside each other, and how they are asked."""

import email.message
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.compose.project import Project
from tests.compose.test_stack import MODEL, instances
from tests.gpu_host import gpus

ANSWER_LIMIT_S = 120
RESTART_LIMIT_S = 300  # a server imports, compiles and captures its graphs anew
FILES = os.environ.get("GPU_HOST_FILES", "compose.yaml:compose.gpu.yaml:compose.cdi.yaml").split(":")
# Many servers share the GPU: a KV cache of one GiB each, and no claim on the memory that others leave free.
SHARED_GPU = {"VLLM_EXTRA_ARGS": "--kv-cache-memory-bytes 1073741824", "GPU_MEMORY_UTILIZATION": "0.3"}
COUNTING = " ".join(map(str, range(1, 301)))  # of the README: long enough to be split


@dataclass(frozen=True)
class Kind:
    """One stack: how its KV cache moves, and between which GPUs. Without a transport its servers are aggregated."""

    transport: str
    prefill_gpu: str = "0"
    decode_gpu: str = "0"

    def __str__(self) -> str:
        return f"{self.transport or 'aggregated'}, {self.prefill_gpu} to {self.decode_gpu}"

    @property
    def sees_all_gpus(self) -> bool:
        return self.prefill_gpu != self.decode_gpu

    def project(self) -> Project:
        variables = {**SHARED_GPU, "PREFILL_GPU": self.prefill_gpu, "DECODE_GPU": self.decode_gpu}
        if not self.transport:
            return Project([*FILES, "compose.baseline.yaml"], variables, build=False)
        variables["MOONCAKE_PROTOCOL"] = self.transport
        if not self.sees_all_gpus:
            return Project(FILES, variables, build=False)
        variables |= {"PREFILL_CUDA_DEVICES": self.prefill_gpu, "DECODE_CUDA_DEVICES": self.decode_gpu}
        return Project(
            [*FILES, "compose.nvlink.yaml"], {**variables, "PREFILL_GPU": "all", "DECODE_GPU": "all"}, build=False
        )


AGGREGATED = Kind("")
ON_ONE_GPU = Kind("nvlink_intra")
OVER_TCP = Kind("tcp")
BETWEEN_GPUS = [Kind("nvlink_intra", "0", second) for second in gpus.indexes()[1:2]]
DISAGGREGATED = [ON_ONE_GPU, OVER_TCP, *BETWEEN_GPUS]
Stacks = dict[Kind, Project]


@dataclass
class Answer:
    status: int
    headers: email.message.Message
    body: dict[str, Any]


def complete(project: Project, prompt: str, **parameters: Any) -> Answer:
    """A greedy completion, or the error that came in its place."""
    request = completion(project, prompt, **parameters)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as answer:
            return Answer(answer.status, answer.headers, json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, json.load(error))


def completion(project: Project, prompt: str, **parameters: Any) -> urllib.request.Request:
    body = {"model": MODEL, "prompt": prompt, "temperature": 0, **parameters}
    url = f"{project.proxy_url}/v1/completions"
    return urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})


def wait_for_roles(project: Project, expected: list[str], not_among: set[str]) -> None:
    """Until the proxy knows exactly these roles, and none of these instances is left."""
    deadline = time.monotonic() + RESTART_LIMIT_S
    while True:
        found = instances(project)
        if sorted(each["role"] for each in found) == expected and not not_among & {
            each["instance_id"] for each in found
        }:
            return
        assert time.monotonic() < deadline, f"the proxy sees {found}, expected {expected} without {not_among}"
        time.sleep(0.5)
