"""The systems that the benches measure: Dovecot 2.3's directors and the tools around them, as processes on
loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

TOOLS = Path(__file__).parent / "tools"
HOSTS = [f"127.0.1.{i}" for i in range(1, 5)]
RING_PORT = 9090
READY_WITHIN = 30.0
ANSWER_WITHIN = 2.0
"""Seconds that a director may take to answer an operator."""

ORIGINAL = """\
base_dir = {run}
state_dir = {run}/state
instance_name = {name}
listen = {address}
protocols =
ssl = no
log_path = {folder}/log
auth_mechanisms = plain
default_vsz_limit = 0
default_client_limit = 4000
stats_writer_socket_path =
director_servers = {servers}
director_mail_servers = {hosts}
passdb {{
  driver = static
  args = proxy=y nopassword=y
}}
service director {{
  client_limit = 4000
  unix_listener login/director {{
    mode = 0666
  }}
  {ring}
}}
service ipc {{
  unix_listener ipc {{
    user = dovecot
  }}
}}
service auth {{
  unix_listener auth-login {{
    mode = 0
  }}
}}
"""


def children_of(parent: int) -> dict[int, str]:
    """Return the child processes of a process: number and name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                head, _, rest = (entry / "stat").read_text().rpartition(")")
                if int(rest.split()[1]) == parent:
                    found[int(entry.name)] = head.partition("(")[2]
    return found


def wait_for(what: str, ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} is not ready after {READY_WITHIN:.0f} s")
        time.sleep(0.05)


@contextmanager
def started(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = begin(*command, log=log)
    try:
        yield process
    finally:
        end(process)


def begin(*command: str | Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def build_tools(folder: Path, *tools: str) -> None:
    for tool in tools:
        subprocess.run(["gcc", "-O2", "-o", folder / tool, TOOLS / f"{tool}.c"], check=True)


def fake_auth(folder: Path, stack: ExitStack, runs: Sequence[Path]) -> None:
    """Start `fakeauth`, built in `folder`, for the directors with these folders of sockets."""
    sockets = [run / "auth-login" for run in runs]
    for path in sockets:
        path.unlink(missing_ok=True)
    stack.enter_context(started(folder / "fakeauth", *sockets, log=folder / "auth.log"))
    wait_for("fakeauth", lambda: all(s.exists() for s in sockets))


class Dovecot23Director:
    """A Dovecot 2.3 whose only service is the director."""

    def __init__(self, folder: Path, address: str, ring: Sequence[str]) -> None:
        """Prepare an instance. `ring`: the addresses of all members; empty: it runs alone."""
        self.folder, self.address = folder, address
        self.run = folder / "run"
        self.login = self.run / "login/director"
        self.log_path = folder / "log"
        self._master: subprocess.Popen[bytes] | None = None
        self.run.mkdir(parents=True)
        listener = f"inet_listener ring {{\n address = {address}\n port = {RING_PORT}\n }}" if ring else ""
        config = ORIGINAL.format(
            run=self.run,
            name=folder.name,
            address=address,
            folder=folder,
            servers=" ".join(f"{member}:{RING_PORT}" for member in ring),
            hosts=" ".join(HOSTS),
            ring=listener,
        )
        (folder / "conf").write_text(config)

    @property
    def pid(self) -> int:
        """The id of the process `director`, which the master starts at the first connection."""
        assert self._master is not None
        for pid, name in children_of(self._master.pid).items():
            if name == "director":
                return pid
        raise SystemExit("the director process of Dovecot 2.3 is not running")

    def start(self) -> None:
        """Start the master, and wait until its sockets exist."""
        self.login.unlink(missing_ok=True)  # left by an instance that was killed
        dovecot = shutil.which("dovecot", path=os.environ["PATH"] + ":/usr/sbin") or "dovecot"
        self._master = begin(dovecot, "-F", "-c", self.folder / "conf", log=self.folder / "out")
        wait_for("Dovecot 2.3's director", self.login.exists)

    def wake(self) -> None:
        """Make the master start the director."""
        wait_for("Dovecot 2.3's director", self._greets)

    def tell_to_stop(self) -> None:
        """Send SIGTERM without waiting."""
        assert self._master is not None
        self._master.terminate()

    def stop(self) -> None:
        """End the instance as an init system does. It may have ended already."""
        assert self._master is not None
        end(self._master)

    def kill(self) -> None:
        """Kill all processes of the instance."""
        assert self._master is not None
        for pid in [self._master.pid, *children_of(self._master.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._master.wait()

    def _greets(self) -> bytes:
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(ANSWER_WITHIN)
            client.connect(str(self.login))
            return client.recv(1)
        return b""

    def ring_list(self) -> list[list[str]]:
        """Return the fields of DIRECTOR-LIST; empty while it does not answer."""
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(ANSWER_WITHIN)
            client.connect(str(self.run / "director-admin"))
            client.sendall(b"VERSION\tdirector-doveadm\t1\t0\nDIRECTOR-LIST\n")
            with client.makefile("r") as lines:
                lines.readline()
                return [line.rstrip("\n").split("\t") for line in iter(lines.readline, "\n")]
        return []
