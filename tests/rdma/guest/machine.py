"""QEMU with the guest in it: saves a booted guest once, then runs one job after the other from that state.

Software emulation (TCG), so that it runs wherever QEMU does. Times in seconds.
"""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from tests.rdma.guest.image import GuestError

QEMU = "qemu-system-x86_64"
BOOT_LIMIT_S = 300
POLL_S = 0.1
# nokaslr and tsc: faster under emulation; apparmor=0: its parser is not in the guest, and Docker would ask for it.
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable audit=0 apparmor=0 "
    "ipv6.disable_ipv6=1"
)
# host_mtu 9000 gives the RDMA device an active MTU of 4096.
MACHINE = (
    *("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "2", "-m", "2048M"),
    *("-nodefaults", "-display", "none", "-no-reboot", "-append", KERNEL_ARGUMENTS),
    *("-netdev", "user,id=net,restrict=on,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile=,host_mtu=9000"),
    *("-device", "virtio-rng-pci"),
)
READY = "GUEST-READY"


def saved_state(image: Path) -> Path:
    """A booted guest of this image, made if it is not there. Raises: GuestError."""
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    state = image / f"state-{sha256((version + str(MACHINE)).encode()).hexdigest()[:12]}"
    if state.is_file():
        return state
    for outdated in image.glob("state-*"):
        outdated.unlink()
    started = time.monotonic()
    unfinished = state.with_name("unfinished")
    with _Machine(image) as machine:
        machine.wait(lambda: READY in machine.console(), BOOT_LIMIT_S, "the guest did not boot")
        machine.command("migrate-set-parameters", **{"max-bandwidth": 10**10})
        machine.command("migrate", uri=f"exec:cat > {shlex.quote(str(unfinished))}")
        machine.wait(lambda: machine.command("query-migrate")["status"] == "completed", BOOT_LIMIT_S, "state not saved")
        machine.command("quit")
        machine.wait(lambda: machine.process.poll() is not None, BOOT_LIMIT_S, "QEMU did not end")
    unfinished.rename(state)
    print(f"guest: state saved, {state.stat().st_size >> 20} MiB ({time.monotonic() - started:.0f} s)", flush=True)
    return state


def run(image: Path, state: Path, repository: Path, job: str, limit: float) -> int:
    """Run the shell script `job` in the guest, in the repository (read-only there), and pass on its output as it comes.

    Returns: its exit status. Raises: GuestError: when it has not ended within `limit`, or the guest is lost.
    """
    with _Machine(image, repository, state) as machine:
        output = machine.results / "output"
        output.touch()
        (machine.results / "job.sh").write_text(job)
        machine.wait(lambda: machine.command("query-status")["status"] == "running", BOOT_LIMIT_S, "state not restored")
        machine.start_job()
        with output.open(errors="replace") as stream:

            def passed_on() -> bool:
                ended = machine.process.poll() is not None
                sys.stdout.write(stream.read())
                sys.stdout.flush()
                return ended

            machine.wait(passed_on, limit, "the job did not end")
        status = machine.results / "status"
        if not status.is_file():
            raise GuestError(f"the guest ended before its job; the end of its console:\n{machine.console()[-3000:]}")
        return int(status.read_text())


class _Machine:
    """A QEMU process, which ends with the context, and with this process."""

    def __init__(self, image: Path, repository: Path | None = None, state: Path | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="guest-"))
        self.results = self._folder / "results"
        self.results.mkdir()
        self._order = self._folder / "order"
        self._write_order("wait")
        self._console = self._folder / "console"
        socket_path = self._folder / "qmp"
        command = ["setpriv", "--pdeathsig", "KILL", QEMU, *MACHINE]
        command += ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.gz")]
        command += ["-serial", f"file:{self._console}", "-qmp", f"unix:{socket_path},server=on,wait=off"]
        command += ["-drive", f"if=virtio,format=raw,file={image / 'root.img'},readonly=on"]
        command += ["-drive", f"if=virtio,format=raw,file={self._order},readonly=on,cache=none"]
        for tag, folder, access in (("repository", repository or image, ",readonly=on"), ("results", self.results, "")):
            command += ["-fsdev", f"local,id={tag},path={folder},security_model=none{access}"]
            command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        if state is not None:
            command += ["-incoming", f"exec:cat {shlex.quote(str(state))}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.wait(socket_path.exists, BOOT_LIMIT_S, "QEMU did not start")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(socket_path))
        self._qmp = connection.makefile("rw")
        self._qmp.readline()  # its greeting
        self.command("qmp_capabilities")

    def __enter__(self) -> "_Machine":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self._folder)

    def console(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def start_job(self) -> None:
        self._write_order(f"go {int(time.time())}")

    def _write_order(self, words: str) -> None:
        """One sector; the guest reads it past its cache."""
        self._order.write_bytes(f"{words}\n".encode().ljust(512, b"\0"))

    def command(self, name: str, **arguments: object) -> dict[str, str]:
        """QEMU's machine protocol. Raises: GuestError: with QEMU's refusal."""
        self._qmp.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._qmp.flush()
        for line in self._qmp:
            answer = json.loads(line)
            if "error" in answer:
                raise GuestError(f"QEMU refused {name}: {answer['error']['desc']}")
            if "return" in answer:
                return dict(answer["return"])
        raise GuestError(f"QEMU ended at {name}; the end of the guest's console:\n{self.console()[-3000:]}")

    def wait(self, condition: Callable[[], bool], limit: float, otherwise: str) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                raise GuestError(f"{otherwise} within {limit:g} s; the end of its console:\n{self.console()[-3000:]}")
            time.sleep(POLL_S)
