"""What two instances' drafts must have in common: a draft that keeps a KV cache of its own needs the prompt's as well.

One that only the consumer has would never get it. Guessing from the text alone needs nothing from the other side.
"""

import json
from collections.abc import Sequence
from contextlib import suppress

from connector.cache.fingerprint import fingerprint
from connector.instance.identity import model as target

WITHOUT_CACHE = {"ngram", "ngram_gpu", "suffix", "medusa", "mlp_speculator"}
SHORT = {"-sc": "--speculative-config"}
ALONE = {"--spec-method": "method", "--spec-model": "model"}  # vLLM's options beside the JSON object


def facts_of(words: Sequence[str]) -> dict[str, str]:
    """None for an instance without a draft, or with one that has no cache. How many tokens are guessed at a time may
    differ: what of it changes the cache the workers compare.

    Args: words: further arguments of vLLM.
    Raises: OSError: a file of the draft cannot be read.
    """
    given = _speculation(words)
    method, draft = str(given.get("method") or ""), str(given.get("model") or "")
    if not given or {method, draft.strip("[]")} & WITHOUT_CACHE:
        return {}
    if not draft:
        return {"draft": "part of the model"}
    revision = ["--revision", str(given["revision"])] if given.get("revision") else []
    facts = target.facts_of(draft, revision)
    deciding = {name: facts.get(name, "") for name in ("model", "configuration", "weights")}
    return {"draft": fingerprint(**deciding, quantization=given.get("quantization"))}


def _speculation(words: Sequence[str]) -> dict[str, object]:
    """vLLM's speculative configuration as its options give it; what cannot be read is left to vLLM to complain of."""
    found: dict[str, object] = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        name, _, key = SHORT.get(option, option).replace("_", "-").partition(".")
        value = value if equals else following
        if name in ALONE:
            found[ALONE[name]] = value
        elif name == "--speculative-config" and key:  # --speculative-config.method: one value of the JSON object
            found[key] = value
        elif name == "--speculative-config":
            with suppress(ValueError, TypeError):
                found |= dict(json.loads(value))
    return {name.replace("-", "_"): value for name, value in found.items()}
