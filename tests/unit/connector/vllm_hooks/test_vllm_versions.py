"""What vLLM 0.32 and 0.33 each ask of the connector where they differ, and what it answers, without vLLM itself."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from connector.vllm_hooks.vllm_versions import REFUSED, refuse_options

CONNECTOR = "connector.vllm_hooks.kv_connector"
BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"


class BaseOf032:
    """What 0.32's `KVConnectorBase_V1` knows of sleep mode is nothing."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        self._kv_transfer_config = vllm_config.kv_transfer_config


class BaseOf033(BaseOf032):
    @classmethod
    def supports_sleep_mode(cls, kv_transfer_config: Any) -> bool:
        return True

    def unregister_kv_caches(self) -> None:
        return


class Anything(ModuleType):
    """A module in which every name is a class of its own, or one more module."""

    def __getattr__(self, name: str) -> Any:
        module_of_vllm = name.islower() and self.__name__.startswith("vllm")
        if module_of_vllm or name.startswith("__"):
            raise AttributeError(name)  # then `from vllm.v1 import kv_cache_interface` imports it
        setattr(self, name, type(name, (), {}))
        return getattr(self, name)


class StandIns(MetaPathFinder, Loader):
    """All of vLLM and PyTorch, which the tests' environment has not."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        absent = fullname.partition(".")[0] in ("vllm", "torch")
        return ModuleSpec(fullname, self, is_package=True) if absent else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return


@pytest.fixture
def connector_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type], Any]]:
    """The connector's class as the vLLM with that base class loads it."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "meta_path", [StandIns(), *sys.meta_path])

    def load(base: type) -> Any:
        importlib.import_module(BASE).__dict__["KVConnectorBase_V1"] = base
        return importlib.import_module(CONNECTOR).StreamingMooncakeConnector

    yield load
    for name in set(sys.modules) - before:
        del sys.modules[name]


def config(**on: Any) -> SimpleNamespace:
    """A `VllmConfig` with nothing refused in it but what `on` names."""
    return SimpleNamespace(
        kv_transfer_config=SimpleNamespace(kv_connector_extra_config={}, kv_role="kv_producer"),
        model_config=SimpleNamespace(
            enable_sleep_mode=on.get("enable_sleep_mode", False),
            enable_cumem_allocator=on.get("enable_cumem_allocator", False),
        ),
        aux_output_config=SimpleNamespace(enabled=on.get("enabled", False)),
    )


@pytest.mark.parametrize("base", [BaseOf032, BaseOf033], ids=["0.32", "0.33"])
@pytest.mark.parametrize(("option", "place", "reason"), REFUSED, ids=[option for option, _, _ in REFUSED])
def test_refused_when_vllm_makes_the_connector(
    connector_for: Callable[[type], Any], base: type, option: str, place: str, reason: str
) -> None:
    asked_for = config(**{place.rpartition(".")[2]: True})
    with pytest.raises(ValueError, match=re.escape(f"{option}: not together with KV transfer, because {reason}")):
        connector_for(base)(asked_for, "worker", None)


def test_sleep_mode_is_named_before_the_allocator_that_it_turns_on() -> None:
    with pytest.raises(ValueError, match=r"^--enable-sleep-mode: "):
        refuse_options(config(enable_sleep_mode=True, enable_cumem_allocator=True))


def test_nothing_else_is_refused() -> None:
    refuse_options(config())


def test_033_hears_no_before_it_loads_anything(connector_for: Callable[[type], Any]) -> None:
    """As `VllmConfig._verify_kv_transfer_compat` asks."""
    asked_for = config(enable_sleep_mode=True)
    assert connector_for(BaseOf033).supports_sleep_mode(asked_for.kv_transfer_config) is False


def test_033_unmaps_nothing(connector_for: Callable[[type], Any]) -> None:
    """As a worker's `sleep` and `discard` do, e.g. with a sleep backend of a plugin and no option at all."""
    connector = object.__new__(connector_for(BaseOf033))
    unmapped = []

    def sleep() -> None:
        connector.unregister_kv_caches()
        unmapped.append("kv_cache")

    with pytest.raises(RuntimeError, match=r"^sleep: not together with KV transfer"):
        sleep()
    assert not unmapped
