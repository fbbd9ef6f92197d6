"""What the processes-only way knows of one service."""

from dataclasses import dataclass, field

from stack.network import addresses


@dataclass(frozen=True)
class Service:
    """One program and its replicas; replica i has the i-th port and, for vLLM, INSTANCE_INDEX=i."""

    name: str
    command: tuple[str, ...]
    ports: tuple[int, ...]
    port_variable: str
    health_path: str
    host: str = "127.0.0.1"
    grace_s: float = 10.0
    environment: dict[str, str] = field(default_factory=dict)
    other_ports: tuple[int, ...] = ()  # beside those of HTTP
    replicas_variable: str = ""  # where it has another name than the service

    @property
    def replicas(self) -> int:
        return len(self.ports)

    def process(self, index: int) -> str:
        return f"{self.name}-{index}"

    def url(self, index: int) -> str:
        return addresses.http_url(self.host, self.ports[index])

    def health_url(self, index: int) -> str:
        return self.url(index) + self.health_path
