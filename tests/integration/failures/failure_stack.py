"""The stack whose legs are made to fail: one producer, two consumers, and what a test sees of them and does to them.

Its bounds are short enough to be waited for. A prompt of 1,200 tokens is five chunks and takes seconds, so that a
moment within its prefill can be reached by looking.
"""

import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from connector.control.control_key import ControlKey
from stack.instances.record import PREFIX, Instance
from tests import etcd_http
from tests.real_stack import MODEL, START_LIMIT_S, RealStack, answers, post, wait_until

CHUNK_TOKENS = 256
PATIENCE_S = 10  # longer than a chunk takes on a busy machine: a producer hears of requests between two chunks only
TIMEOUT_S = 20  # a long prompt's prefill on a busy machine must fit in
CANCEL_TIMEOUT_S = 22  # Mooncake gives up a write without progress after 4 s then, which a busy machine may take
KV_CACHE_BYTES = 256 << 20  # room for two long prompts at once
MAX_NUM_SEQS = 2  # with so many at work a server lets the next request wait
SEEN_LIMIT_S = 60.0  # for a moment that a test waits to see


@dataclass(frozen=True, eq=False)
class Server:
    """One vLLM server, whichever process it is at present; `name` is supervisord's for its launcher."""

    stack: RealStack
    name: str
    url: str

    # --- what it says of itself ---

    def metric(self, name: str) -> float:
        """Summed over its labels; 0 for what has not been counted yet."""
        return float(sum(sample.value for sample in self._samples(name)))

    def received(self) -> int:
        """Transfers that arrived here whole."""
        self._compute_a_token()
        return int(self.metric("pd_kv_received_shares_total"))

    def registrations(self) -> int:
        """Those it has accepted."""
        self._compute_a_token()
        found = self._samples("pd_kv_registrations_total")
        return sum(int(sample.value) for sample in found if sample.labels["outcome"] == "accepted")

    def failures(self) -> Counter[str]:
        """Transfers that ended without delivery, by cause."""
        self._compute_a_token()  # the connector's counts travel with a step's
        count: Counter[str] = Counter()
        for sample in self._samples("pd_kv_failed_shares_total"):  # one for each cause and transport
            count[sample.labels["cause"]] += int(sample.value)
        return count

    def free_blocks(self) -> int:
        """Blocks that no request and no transfer holds, exactly; cached prompts that may be evicted are among them."""
        self._compute_a_token()  # the figure is of the last step's end
        (usage,) = self._samples("vllm:kv_cache_usage_perc")
        (config,) = self._samples("vllm:cache_config_info")
        usable = int(config.labels["num_gpu_blocks"]) - 1  # vLLM never hands out the first
        return round((1 - float(usage.value)) * usable)

    def reports(self, *words: str) -> bool:
        """Whether one line of its log has all of `words`."""
        log = (self.stack.folder / "logs" / f"{self.name}.log").read_text(errors="replace")
        return any(all(word in line for word in words) for line in log.splitlines())

    def _compute_a_token(self) -> None:
        post(self.url + "/v1/completions", {"model": MODEL, "prompt": [1], "max_tokens": 1})

    def _samples(self, name: str) -> list[Sample]:
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as response:
            page = response.read().decode()
        return [
            sample
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name
        ]

    # --- what others know of it ---

    @property
    def record(self) -> Instance:
        """What it keeps in etcd now."""
        return self._instances()[0]

    def transfer_record(self) -> dict[str, Any]:
        """What a proxy would tell a consumer about this producer now."""
        return self.record.kv_transfer

    def is_registered(self) -> bool:
        return bool(self._instances())

    @property
    def control_address(self) -> str:
        (address,) = self.transfer_record()["control"]
        return str(address)

    def _instances(self) -> list[Instance]:
        """Its records in etcd, the newest first."""
        values = etcd_http.under(self.stack.etcd_url, PREFIX).values()
        records = [Instance.model_validate_json(value) for value in values]
        return sorted((r for r in records if r.url == self.url), key=lambda r: r.started_at, reverse=True)

    # --- what is done to it ---

    def kill(self) -> None:
        """All of vLLM's processes at once, without a word to anybody; the supervisor will start it again."""
        family = self._family()
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=30)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its processes are stopped; the host's kernel still accepts connections for them."""
        family = self._family()
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                process.resume()

    def wait_for_successor(self, engine_id: str) -> None:
        """Until a server of another engine id answers here and is in etcd."""

        def is_up() -> bool:
            newest = self._instances()[:1]
            return answers(self.url + "/health") and [r.kv_transfer["engine_id"] for r in newest] not in (
                [],
                [engine_id],
            )

        wait_until(is_up, START_LIMIT_S, f"{self.name} was started again")

    def _family(self) -> list[psutil.Process]:
        """vLLM's processes: what the launcher started."""
        (launcher,) = (process.pid for process in self.stack.supervisor.processes() if process.name == self.name)
        family: list[psutil.Process] = psutil.Process(launcher).children(recursive=True)
        return family


class FailureStack(RealStack):
    def __post_init__(self) -> None:
        super().__post_init__()
        decode = int(self.variables["CONTROL_PORT"]) + 20  # the second consumer listens on the port after the first's
        self.variables |= {
            "STACK_SERVICES": "etcd,prefill,decode,proxy",
            "DECODE_PORT": str(decode),
            "DECODE_REPLICAS": "2",
            "COMPOSE_FILE": "compose.yaml:compose.observability.yaml",
            "PROMETHEUS_PORT": str(decode + 5),
            "VLLM_EXTRA_ARGS": f"--max-num-seqs {MAX_NUM_SEQS}",
            "MAX_NUM_BATCHED_TOKENS": str(CHUNK_TOKENS),
            "KV_CACHE_BYTES": str(KV_CACHE_BYTES),
            "TRANSFER_PATIENCE_S": str(PATIENCE_S),
            "TRANSFER_TIMEOUT_S": str(TIMEOUT_S),
            "TRANSFER_CANCEL_TIMEOUT_S": str(CANCEL_TIMEOUT_S),
            "TRANSFER_CHECKSUM": "true",
        }
        self.prometheus_url = f"http://127.0.0.1:{decode + 5}"
        self.producer = Server(self, "prefill-0", self.prefill_url)
        self.consumer = Server(self, "decode-0", f"http://127.0.0.1:{decode}")
        self.other_consumer = Server(self, "decode-1", f"http://127.0.0.1:{decode + 1}")

    @property
    def servers(self) -> tuple[Server, Server, Server]:
        return self.producer, self.consumer, self.other_consumer

    def received(self) -> int:
        return sum(server.received() for server in self.servers)

    def failures(self) -> Counter[str]:
        return sum((server.failures() for server in self.servers), Counter())

    @property
    def key(self) -> ControlKey:
        """Of the control channels."""
        return ControlKey.from_secret((self.folder / "stack.key").read_text())
