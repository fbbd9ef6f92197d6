"""The instances as discovery last saw them, and what each has in hand."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count

from proxy import dispatch
from proxy.dispatch import Load, Pair
from proxy.errors import NoInstance
from stack.instances import Instance


@dataclass(frozen=True)
class View:
    """One state of etcd's keyspace; times are Unix seconds.

    revision: etcd's, 0 before the first answer. stale_since: when etcd was lost; the view keeps serving.
    superseded: instance id -> the id that took over its URL; unreadable: key -> what is wrong with its record.
    """

    instances: tuple[Instance, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    stale_since: float | None = None

    @property
    def known(self) -> bool:
        """Whether etcd has answered at least once."""
        return self.revision > 0

    @cached_property
    def usable(self) -> tuple[Instance, ...]:
        return tuple(instance for instance in self.instances if instance.instance_id not in self.superseded)


class Fleet:
    def __init__(self) -> None:
        self.view = View()
        self._loads: dict[str, Load] = {}
        self._dispatches = count(1)

    def update(self, view: View) -> None:
        self.view = view
        known = {instance.instance_id for instance in view.instances}
        self._loads = {name: load for name, load in self._loads.items() if load.outstanding or name in known}

    def choose(self, model: str, avoid: Collection[str] = frozenset()) -> Pair:
        if not self.view.known:
            raise NoInstance(dispatch.ROLES, "Discovery has not reached etcd yet.")
        return dispatch.choose(self.view.usable, self._loads, model, avoid)

    def outstanding(self, instance_id: str) -> int:
        return self._loads.get(instance_id, dispatch.IDLE).outstanding

    def begin(self, instance: Instance) -> None:
        """One more request is on its way to `instance`; every `begin` has its `end`."""
        name = instance.instance_id
        self._loads[name] = Load(self.outstanding(name) + 1, next(self._dispatches))

    def end(self, instance: Instance) -> None:
        load = self._loads[instance.instance_id]
        self._loads[instance.instance_id] = replace(load, outstanding=load.outstanding - 1)
