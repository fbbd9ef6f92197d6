"""What the connector does because vLLM 0.32 (CPU builds) and 0.33 (the GPU image) differ.

Both have the same hooks with the same signatures, called in the same order, but for this:

- 0.33 asks the connector's class whether it can follow sleep mode and takes silence for yes, and it tells each worker
  before it unmaps the KV cache. 0.32 does neither.
- 0.33 starts some loads later (`update_state_after_alloc` a step or more after the allocation), with HiSparse alone,
  whose groups `cache/movable.py` refuses.
- 0.33 lowers the number of tokens that a connector promised where auxiliary outputs are on. It refuses that
  combination for connectors that it knows by name, of which ours is none.
- 0.33 calls `set_xfer_handshake_metadata_pp_aware` again after every wake-up. We may be called so: what it brings is
  current.
- With speculation 0.33's runner collects results before `wait_for_save`, as 0.32's first one does. Nothing of ours
  depends on that order: what a step ends after it was asked is collected with the next one.

The server's module and the shape of what the scheduler hands over are the same.
"""

from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import KVTransferConfig, VllmConfig

# Peers write to addresses that the transfer engine has registered once, at the start.
NO_SLEEP = "it unmaps the KV cache while peers may write to it"

# Option of vLLM, where its value is in the configuration, why it cannot be together with KV transfer.
REFUSED = (
    ("--enable-sleep-mode", "model_config.enable_sleep_mode", NO_SLEEP),
    # Sleep mode's memory without the option: `/sleep` would unmap it all the same, in 0.32 without a word to us.
    ("--enable-cumem-allocator", "model_config.enable_cumem_allocator", "sleep could unmap the KV cache"),
    ("--enable-return-routed-experts", "aux_output_config.enabled", "a cache that is moved comes without the experts"),
)


def refuse_options(vllm_config: "VllmConfig") -> None:
    """Raises: ValueError: for an option under which the cache would not lie where, or come as, we say."""
    for option, place, reason in REFUSED:
        if attrgetter(place)(vllm_config):
            raise ValueError(f"{option}: not together with KV transfer, because {reason}; start without it")


class WithoutSleepMode:
    """The answers to 0.33's questions about sleep mode, in front of vLLM's base class; 0.32 does not ask them."""

    @classmethod
    def supports_sleep_mode(cls, kv_transfer_config: "KVTransferConfig") -> bool:
        """Asked before anything is loaded. vLLM then says `... does not support sleep mode.` and ends."""
        return False

    def unregister_kv_caches(self) -> None:
        """Called before memory is unmapped, however that came about.

        Raises: RuntimeError: always, so that vLLM leaves the memory where it is.
        """
        raise RuntimeError(f"sleep: not together with KV transfer, because {NO_SLEEP}")
