from dataclasses import dataclass
from typing import Any

import pytest

from connector.vllm_hooks.options import ConnectorOptions

GIVEN: dict[str, Any] = {
    "host": "127.0.0.1",
    "control_port": 13003,
    "metadata_server": "127.0.0.1:2379",
    "transport": "tcp",
    "pairing": "x",
}


def test_defaults_fill_in() -> None:
    options = ConnectorOptions.from_extra_config(GIVEN)
    assert (options.host, options.control_port, options.layerwise, options.device_name) == (
        "127.0.0.1",
        13003,
        False,
        "",
    )


@pytest.mark.parametrize("missing", sorted(GIVEN))
def test_a_missing_key_is_named(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        ConnectorOptions.from_extra_config({key: value for key, value in GIVEN.items() if key != missing})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("transport", "nvlink", r"transport='nvlink': expected one of auto, nvlink_intra, rdma, tcp"),
        ("control_port", "13003", r"Expected `int`, got `str` - at `\$.control_port`"),
        ("patience", None, r"Expected `float`, got `null` - at `\$.patience`"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ConnectorOptions.from_extra_config(GIVEN | {key: value})


def test_stages_that_peers_are_not_told_of() -> None:
    options = ConnectorOptions.from_extra_config(GIVEN | {"pipeline_parallel_size": 2})
    options.refuse_other_stages(2)
    with pytest.raises(ValueError, match="pipeline_parallel_size=4: expected 2, which peers are told: set "):
        options.refuse_other_stages(4)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ConnectorOptions.from_extra_config(GIVEN)
    monkeypatch.delenv("STACK_KEY", raising=False)
    with pytest.raises(ValueError, match="STACK_KEY has fewer than 16 characters"):
        options.open_channel(0)
    monkeypatch.setenv("STACK_KEY", "0123456789abcdef")
    channel = options.open_channel(0)
    assert channel.address.startswith("tcp://127.0.0.1:")
    channel.close()


@dataclass(frozen=True)
class Parallel:
    """As much of vLLM's parallel configuration as is looked at."""

    data_parallel_index: int = 0
    world_size: int = 2


@pytest.mark.parametrize(
    ("ranks", "index", "engine_id", "port"),
    [
        ((0, 0), 0, "i", 13003),
        ((0, 2), 0, "i_dp0", 13003),
        ((0, 2), 1, "i_dp1", 13005),
        ((2, 4), 3, "i_dp3", 13005),
        ((3, 4), 3, "i_dp3", 13003),
    ],
)
def test_each_engine_listens_behind_those_before_it(
    ranks: tuple[int, int], index: int, engine_id: str, port: int
) -> None:
    told = ConnectorOptions.from_extra_config(GIVEN | {"data_parallel": list(ranks)})
    assert told.of_engine(Parallel(index), engine_id).control_port == port


@pytest.mark.parametrize(
    ("ranks", "index", "engine_id"),
    [((0, 0), 0, "i_dp0"), ((0, 2), 2, "i_dp2"), ((2, 4), 1, "i_dp1"), ((0, 2), 0, "i")],
)
def test_an_engine_of_which_the_launcher_does_not_know_is_refused(
    ranks: tuple[int, int], index: int, engine_id: str
) -> None:
    """In etcd it would have no address, and its ports would be others'."""
    told = ConnectorOptions.from_extra_config(GIVEN | {"data_parallel": list(ranks)})
    with pytest.raises(ValueError, match=f"data-parallel engine {engine_id}: expected one of "):
        told.of_engine(Parallel(index), engine_id)
