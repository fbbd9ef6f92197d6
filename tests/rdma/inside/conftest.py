from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.etcd_process import EtcdProcess
from tests.rdma.inside.ranks import Rank

Start = Callable[..., Rank]


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    server = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start(etcd: EtcdProcess, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a rank: settings by keyword, variables of its environment in capitals."""
    started: list[Rank] = []

    def make(prefix: tuple[str, ...] = (), **given: Any) -> Rank:
        name = f"{request.node.name}-{len(started)}"
        variables = {key: str(value) for key, value in given.items() if key.isupper()}
        settings = {key: value for key, value in given.items() if not key.isupper()}
        endpoint = settings.pop("etcd", etcd.endpoint)
        started.append(Rank(name, endpoint, tmp_path / f"{len(started)}.log", settings, variables, list(prefix)))
        return started[-1]

    yield make
    for rank in started:
        rank.end()
