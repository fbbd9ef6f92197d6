"""Where a scripted producer and a scripted consumer listen, and the etcd that has their records."""

from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Upstream:
    prefill_port: int
    decode_port: int
    etcd: str  # host:port

    @property
    def prefill_url(self) -> str:
        return f"http://{LOOPBACK}:{self.prefill_port}"

    @property
    def decode_url(self) -> str:
        return f"http://{LOOPBACK}:{self.decode_port}"
