"""Whether a model's chat template prints the time of day.

The two sides render it by themselves, one a moment after the other, so that their prompts differ.
"""

import contextlib
import json
import re
import shlex
from pathlib import Path

from stack.installation import hub

_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1""")
_TIME_OF_DAY = re.compile(r"%[-_0^#EO]*[HIklMSfpXcTrRs]")  # directives of strftime


def clock_in_template(model: str, extra_args: str) -> str:
    """The format in which it does, empty when it prints none or the date alone.

    Args: model: its folder, or its id where it lies in the hub's cache; extra_args: of vLLM.
    """
    folder = Path(model)
    if not folder.exists() and hub.is_id(model):
        with contextlib.suppress(OSError, ValueError):
            folder = hub.cached(model)
    for text in _templates(folder, extra_args):
        for _, form in _CALL.findall(text):
            if _TIME_OF_DAY.search(form):
                return str(form)
    return ""


def _templates(folder: Path, extra_args: str) -> list[str]:
    words = shlex.split(extra_args)
    given = [
        word.partition("=")[2] or following
        for word, following in zip(words, [*words, ""][1:], strict=True)
        if word.partition("=")[0].replace("_", "-") == "--chat-template"
    ]
    if given:
        return [_text(Path(given[-1])) or given[-1]]  # vLLM takes a file or the template itself
    return [_text(folder / name) for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")]


def _text(file: Path) -> str:
    try:
        text = file.read_text()
        return json.dumps(json.loads(text), ensure_ascii=False).replace('\\"', '"') if file.suffix == ".json" else text
    except (OSError, ValueError):
        return ""
