"""One request on one instance: what it still has to compute and to make, and what it holds."""

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.request.prompt import Prompt


@dataclass(slots=True, eq=False)
class Sequence:
    """output_tokens: to be made here, after `made` that are there already. priority: the least goes first.

    remote: its prompt's KV cache comes from another instance, once there is room for it here.
    keeps_blocks: its blocks are not free at its end, but when `Instance.release` is called.

    Called at the end of the step: `on_computed` with a piece of the prompt (when the step began, from which token, to
    which; what the prefix cache holds is the first piece), `on_first` with the first token made here, `on_end` with the
    last. `on_room`, of a remote one: there is room, and so many tokens of the prompt are here already.
    """

    prompt: Prompt
    output_tokens: int
    priority: int = 0
    remote: bool = False
    made: int = 0
    keeps_blocks: bool = False
    on_computed: Callable[[float, int, int], None] | None = None
    on_first: Callable[[], None] | None = None
    on_end: Callable[[], None] | None = None
    on_room: Callable[[int], None] | None = None

    number: int = 0  # in the order of submission
    computed: int = 0  # tokens whose KV cache is here
    has_come: bool = False  # the KV cache of a remote one
    missed: int = 0  # tokens of prompt computed here, over all its preemptions
    shared: int = 0  # leading blocks of the prompt that it holds
    joined: int = 0  # the instance's steps when it began to decode
    ends: int = 0  # the number of steps after which it has made all its tokens
    preemptions: int = 0
    # Of the instance's steps those at whose ends it got its tokens: [first, behind the last].
    stretches: list[list[int]] = field(default_factory=list)

    @property
    def target(self) -> int:
        """Tokens that have to be computed before the next one can be made."""
        return self.prompt.tokens + self.made
