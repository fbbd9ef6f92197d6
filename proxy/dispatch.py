"""Which producer and which consumer serve a request. Pure functions over what is known at that moment.

A producer and a consumer form a pair when both serve the model and their fingerprints (model, cache dtype, block
layout) are equal. Of all pairs the consumer with the least outstanding requests is taken, then the producer; equals are
taken in turn, the longest unused first, so that the same inputs always give the same pair.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from proxy.errors import ModelNotFound, NoInstance
from stack.instances import Instance, Role


@dataclass(frozen=True)
class Load:
    """What one instance has in hand; `last_used` is the number of the dispatch that used it last."""

    outstanding: int = 0
    last_used: int = 0


@dataclass(frozen=True)
class Pair:
    producer: Instance
    consumer: Instance


IDLE = Load()
ROLES: tuple[Role, ...] = ("prefill", "decode")


def choose(
    instances: Sequence[Instance], loads: Mapping[str, Load], model: str, avoid: Collection[str] = frozenset()
) -> Pair:
    """The pair for one request.

    Args: loads: by instance id, absent means idle; avoid: instance ids that have just failed this request.
    Raises: ModelNotFound: instances are known and none serves `model`; NoInstance: no pair for it.
    """
    serving = [instance for instance in instances if model in instance.served_models]
    if instances and not serving:
        raise ModelNotFound(model)
    usable = [instance for instance in serving if instance.instance_id not in avoid]
    producers = sorted(of_role(usable, "prefill"), key=lambda instance: _rank(instance, loads))
    consumers = sorted(of_role(usable, "decode"), key=lambda instance: _rank(instance, loads))
    for consumer in consumers:
        for producer in producers:
            if mismatch(producer, consumer) is None:
                return Pair(producer, consumer)
    raise no_pair(usable)


def no_pair(instances: Sequence[Instance]) -> NoInstance:
    """Why `instances`, of which none form a pair, cannot serve."""
    missing = tuple(role for role in ROLES if not of_role(instances, role))
    if missing:
        return NoInstance(missing, f"No {' and no '.join(missing)} instance is available.")
    reason = mismatch(of_role(instances, "prefill")[0], of_role(instances, "decode")[0])
    return NoInstance(ROLES, f"No prefill and decode instance fit together: {reason}.")


def of_role(instances: Sequence[Instance], role: Role) -> list[Instance]:
    return [instance for instance in instances if instance.role == role]


def mismatch(producer: Instance, consumer: Instance) -> str | None:
    """Why these two cannot exchange KV blocks, or None when they can."""
    if producer.fingerprint == consumer.fingerprint:
        return None
    compared = ("model", "dtype", "block_size", "vllm_version", "connector_version")
    differing = [
        f"{name} {getattr(producer, name)!r} and {getattr(consumer, name)!r}"
        for name in compared
        if getattr(producer, name) != getattr(consumer, name)
    ]
    return f"different {', '.join(differing) or 'fingerprints'} ({producer.instance_id}, {consumer.instance_id})"


def _rank(instance: Instance, loads: Mapping[str, Load]) -> tuple[int, int, str]:
    load = loads.get(instance.instance_id, IDLE)
    return load.outstanding, load.last_used, instance.instance_id
