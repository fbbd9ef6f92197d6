"""Why instances pair, or do not, for people to read: in a view of them all, and with whom each.

Whether two pair depends on their models, adapters and fingerprints, in which most of a large fleet are alike: so it is
found for each kind of instance, and of a thousand partners some are named and all are counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.routing.fleet import View
from proxy.routing.pairing import mismatch, of_role
from stack.instances.record import Instance, Role

NAMED = 32  # partners of an instance, and reasons
PARTNER: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}

_Kind = tuple[Role, str, tuple[str, ...], tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class _Others:
    """Of one kind the possible partners in the view's order; differing: those that are none, or not for all models."""

    pairing: Sequence[str]
    differing: Sequence[Instance]


@dataclass(frozen=True)
class Partners:
    """Of one instance. pairs_with, not_paired: the first of as many as the counts say.

    not_paired: one sentence for each possible partner that is none, and for each model that one cannot share with it,
    or the reason why there is no possible partner. An aggregated instance needs no partner.
    """

    pairs_with: list[str]
    pairs_with_count: int
    not_paired: list[str]
    not_paired_count: int


class Pairs:
    """Of one view, for as long as an answer takes."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._of_role = {role: of_role(view.usable, role) for role in PARTNER}
        self._known: dict[_Kind, _Others] = {}

    def any(self) -> bool:
        """Ends with the first pair: readiness is asked for often."""
        return any(
            _why_not(consumer, producer) is None
            for consumer in _one_of_each_kind(self._of_role["decode"])
            for producer in _one_of_each_kind(self._of_role["prefill"])
        )

    def of(self, instance: Instance) -> Partners:
        if (newer := self._view.superseded.get(instance.instance_id)) is not None:
            return Partners([], 0, [f"{newer} has taken over {instance.url}"], 1)
        if instance.role not in PARTNER:
            return Partners([], 0, [], 0)
        if not self._of_role[PARTNER[instance.role]]:
            return Partners([], 0, [f"no {PARTNER[instance.role]} instance is available"], 1)
        others = self._others(instance)
        reasons: list[str] = []
        for other in others.differing[:NAMED]:
            reason = _why_not(instance, other)
            reasons += [reason] if reason is not None else _not_shared(instance, other)
        left_out = max(len(others.differing) - NAMED, 0)
        count = len(reasons) + left_out
        return Partners(list(others.pairing[:NAMED]), len(others.pairing), reasons[:NAMED], count)

    def _others(self, instance: Instance) -> _Others:
        kind = _kind(instance)
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = self._find(instance)
        return known

    def _find(self, instance: Instance) -> _Others:
        pairing: list[str] = []
        differing: list[Instance] = []
        seen: dict[_Kind, tuple[bool, bool]] = {}
        for other in self._of_role[PARTNER[instance.role]]:
            kind = _kind(other)
            if kind not in seen:
                pairs = _why_not(instance, other) is None
                seen[kind] = pairs, not pairs or bool(_not_shared(instance, other))
            pairs, differs = seen[kind]
            if pairs:
                pairing.append(other.instance_id)
            if differs:
                differing.append(other)
        return _Others(pairing, differing)


def _one_of_each_kind(instances: Sequence[Instance]) -> Iterator[Instance]:
    seen: set[_Kind] = set()
    for instance in instances:
        if (kind := _kind(instance)) not in seen:
            seen.add(kind)
            yield instance


def _kind(instance: Instance) -> _Kind:
    adapters = tuple((adapter.id, adapter.identity) for adapter in instance.adapters)
    return instance.role, instance.fingerprint, instance.served_models, adapters


def _why_not(instance: Instance, other: Instance, model: str | None = None) -> str | None:
    producer, consumer = (instance, other) if instance.role == "prefill" else (other, instance)
    if not set(producer.served_models) & set(consumer.served_models):
        return f"no served model in common with {other.instance_id}"
    return mismatch(producer, consumer, model)


def _not_shared(instance: Instance, other: Instance) -> list[str]:
    """Of two that pair, the adapters that only one has, or that are not the same."""
    ours, theirs = set(instance.served_models), set(other.served_models)
    one_sided = [f"`{name}` is served by {instance.instance_id}, not by {other.instance_id}" for name in ours - theirs]
    one_sided += [f"`{name}` is served by {other.instance_id}, not by {instance.instance_id}" for name in theirs - ours]
    different = [reason for name in ours & theirs if (reason := _why_not(instance, other, name)) is not None]
    return sorted(one_sided + different)
