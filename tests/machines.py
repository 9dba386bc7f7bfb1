"""Machines on which guides are tried: systemd as process 1 of a root file system, in namespaces of its own.

Each machine has its own network and a link to the others. Needs root, and a kernel with cgroup 2.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

BOOT = """
R=$0
mount --make-rprivate /
mount --bind $R $R
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $R/run
mount -t tmpfs -o mode=755 tmpfs $R/dev
mkdir $R/dev/pts $R/dev/shm
mknod -m 666 $R/dev/null c 1 3
mknod -m 666 $R/dev/zero c 1 5
mknod -m 666 $R/dev/full c 1 7
mknod -m 666 $R/dev/random c 1 8
mknod -m 666 $R/dev/urandom c 1 9
mknod -m 666 $R/dev/tty c 5 0
mount -t devpts -o ptmxmode=666 devpts $R/dev/pts
ln -s /proc/self/fd $R/dev/fd
ln -s pts/ptmx $R/dev/ptmx
hostname $1
ip link set lo up
mkdir -p $R/outside
cd $R
pivot_root . outside
umount -l /outside
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null
"""
NETWORK = "ip link add br0 type bridge && ip link set br0 up && echo ready && exec sleep infinity"
GROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
BOOT_WITHIN = 60.0
UP = ("running", "degraded")


class Machine:
    """A running machine. `network`: the process whose network namespace has the bridge."""

    def __init__(self, name: str, root: Path, address: str, network: int) -> None:
        self.name, self.root, self.address = name, root, address
        group = (
            next(path for path in GROUPS if (path / "cgroup.subtree_control").exists())
            / f"machine-{name}-{os.getpid()}"
        )
        group.mkdir(exist_ok=True)
        command = ["unshare", "-m", "-p", "-f", "-n", "-u", "-i", "-C", "--kill-child", "sh", "-ec", BOOT]
        self._group = group
        self._process = subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group), *command, str(root), name],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.init = self._first_child()
            self._plug_in(network)
            self._booted()
        except BaseException:
            self.stop()
            raise

    def run(self, script: str, *, outside: bool = False) -> subprocess.CompletedProcess[str]:
        """Run shell commands as root, up to the first that fails. `outside`: with the network of the host."""
        spaces = ["-m", "-p", "-u", "-i", "-C", *([] if outside else ["-n"])]
        return subprocess.run(
            ["nsenter", "-t", str(self.init), *spaces, "--root", "--wdns=/root", "sh", "-ec", script],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> None:
        """Kill all processes of the machine at once."""
        for group in self._group.rglob("cgroup.procs"):
            for process in group.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
        self._process.wait()
        for folder in sorted((path for path in self._group.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):  # a process in it has not ended yet
                folder.rmdir()
        with suppress(OSError):
            self._group.rmdir()

    def _first_child(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + BOOT_WITHIN
        while True:
            found = children.read_text().split()
            if found and Path(f"/proc/{found[0]}/comm").read_text() == "systemd\n":
                return int(found[0])
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not boot")
            time.sleep(0.02)

    def _plug_in(self, network: int) -> None:
        # Made beside the bridge; the other end goes into the machine.
        port = f"v{self.init}"
        make = f"ip link add {port} type veth peer name eth0 netns {self.init}"
        plug = f"{make} && ip link set {port} master br0 up"
        subprocess.run(["nsenter", "-t", str(network), "-n", "sh", "-ec", plug], check=True)
        inside = f"ip addr add {self.address}/8 dev eth0 && ip link set eth0 up"
        subprocess.run(["nsenter", "-t", str(self.init), "-n", "sh", "-ec", inside], check=True)

    def _booted(self) -> None:
        deadline = time.monotonic() + BOOT_WITHIN
        while (state := self.run("systemctl is-system-running || true").stdout.strip()) not in UP:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not up after {BOOT_WITHIN:.0f} s, but {state}")
            time.sleep(0.1)


@contextmanager
def machines(base: Path, folder: Path, addresses: Mapping[str, str]) -> Iterator[dict[str, Machine]]:
    """Run copies of the root file system `base` while the block runs.

    Args:
        base: a root file system with systemd.
        folder: holds the copies, which are removed afterwards.
        addresses: the address of each machine, by its name.
    """
    network = subprocess.Popen(["unshare", "-n", "sh", "-ec", NETWORK], stdout=subprocess.PIPE, text=True)
    running: dict[str, Machine] = {}
    try:
        assert network.stdout is not None
        assert network.stdout.readline() == "ready\n"
        for name, address in addresses.items():
            root = folder / name
            subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
            (root / "etc/hosts").write_text(
                "127.0.0.1 localhost\n"
                + "".join(f"{address} {name}\n" for name, address in addresses.items())
            )
            (root / "etc/hostname").write_text(f"{name}\n")
            running[name] = Machine(name, root, address, network.pid)
        yield running
    finally:
        for machine in running.values():
            machine.stop()
        network.kill()
        network.wait()
        for name in addresses:
            shutil.rmtree(folder / name, ignore_errors=True)
