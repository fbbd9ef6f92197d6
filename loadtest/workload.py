"""The workloads for callers that have no tokenizer yet; `loadtest.workloads` is what they move to."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import get_args

from loadtest.settings import LoadTestSettings, WorkloadName
from loadtest.workloads import CompletionRequest, ServedTokenizer, Workload, workload


@lru_cache(maxsize=1)
def _approximate(settings: LoadTestSettings, model: str) -> Workload:
    return workload(settings, model, ServedTokenizer.approximate())


def fixed(settings: LoadTestSettings, model: str, index: int) -> CompletionRequest:
    return _approximate(settings, model).request(index)


WORKLOADS: Mapping[WorkloadName, Callable[[LoadTestSettings, str, int], CompletionRequest]] = dict.fromkeys(
    get_args(WorkloadName), fixed
)
