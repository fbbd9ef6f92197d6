"""Which instances can do what for a model: the roles of those that serve it, and which producers fit a consumer.

What depends on the instances alone is found once for each view of them: of a thousand, to look for it at each request
would take longer than to choose.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

from proxy.errors import NoInstance
from stack.instances.record import Instance, Role

PAIR: tuple[Role, ...] = ("prefill", "decode")

_Fits = tuple[str, str | None]  # fingerprint, and what an adapter's weights are told apart by


@dataclass(frozen=True, slots=True)
class Group:
    """Instances, and their ids in the same order."""

    instances: tuple[Instance, ...]
    names: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.names)


def group_of(instances: Iterable[Instance]) -> Group:
    chosen = tuple(instances)
    return Group(chosen, tuple(each.instance_id for each in chosen))


NOBODY = group_of(())


class Candidates:
    """Of `instances` those that serve `model`, by what they may do with a request for it."""

    def __init__(self, instances: Sequence[Instance], model: str) -> None:
        self.instances = instances
        self.serving = tuple(instance for instance in instances if model in instance.served_models)
        self._model = model
        self._left: tuple[frozenset[str], Candidates] | None = None
        self._take(self.serving)

    def without(self, avoid: Collection[str]) -> "Candidates":
        """Those that are left; who serves the model stays known.

        What was left last is remembered: an instance is left alone for seconds, through thousands of requests.
        """
        avoided = frozenset(avoid)
        if self._left is None or self._left[0] != avoided:
            left = copy(self)
            left._take(instance for instance in self.serving if instance.instance_id not in avoided)
            self._left = avoided, left
        return self._left[1]

    def producers_for(self, consumer: Instance) -> Group:
        return self._producers.get(self._fits(consumer), NOBODY)

    def _take(self, usable: Iterable[Instance]) -> None:
        self.usable = tuple(usable)
        self.consumers = group_of(of_role(self.usable, "decode"))
        self.aggregated = group_of(of_role(self.usable, "aggregated"))
        producers: dict[_Fits, list[Instance]] = {}
        for producer in of_role(self.usable, "prefill"):
            producers.setdefault(self._fits(producer), []).append(producer)
        self._producers = {fits: group_of(each) for fits, each in producers.items()}

    def _fits(self, instance: Instance) -> _Fits:
        """Of two that can exchange KV blocks this is equal: `mismatch` is None."""
        return instance.fingerprint, adapter_identity(instance, self._model)


def of_role(instances: Sequence[Instance], role: Role) -> list[Instance]:
    return [instance for instance in instances if instance.role == role]


def no_pair(instances: Sequence[Instance], model: str | None = None) -> NoInstance:
    """Why `instances`, of which none form a pair and none is aggregated, cannot serve."""
    missing = tuple(role for role in PAIR if not of_role(instances, role))
    if missing:
        return NoInstance(missing, f"No {' and no '.join(missing)} instance is available.")
    reason = mismatch(of_role(instances, "prefill")[0], of_role(instances, "decode")[0], model)
    return NoInstance(
        PAIR, f"No prefill and decode instance fit together: {reason or 'they serve no model in common'}."
    )


def mismatch(producer: Instance, consumer: Instance, model: str | None = None) -> str | None:
    """Why these two cannot exchange KV blocks, of `model` if that is an adapter, or None when they can."""
    ours, theirs = adapter_identity(producer, model), adapter_identity(consumer, model)
    if producer.fingerprint == consumer.fingerprint and ours == theirs:
        return None
    both = f"({producer.instance_id}, {consumer.instance_id})"
    if producer.fingerprint == consumer.fingerprint:
        return f"different weights of the adapter `{model}`: {ours} and {theirs} {both}"
    differing = _differing(producer.pairing, consumer.pairing)
    if not differing:
        compared = ("model", "dtype", "block_size", "vllm_version", "connector_version")
        differing = _differing(*({name: getattr(each, name) for name in compared} for each in (producer, consumer)))
    return f"different {', '.join(differing) or 'fingerprints'} {both}"


def adapter_identity(instance: Instance, name: str | None) -> str | None:
    """What its weights are told apart by; None for what is no adapter there."""
    for adapter in instance.adapters:
        if adapter.id == name:
            return adapter.identity
    return None


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [f"{name} {one.get(name)!r} and {other.get(name)!r}" for name in names]
