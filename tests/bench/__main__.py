"""Ours against the original, side by side: `make bench`, or `python -m tests.bench --help`.

Both are alive at once on loopback, asked by the same load generator in random order, round by round: a noisy
machine is noisy for both. What counts is the ratio within a round; nothing is asserted about absolute time.
Needs root (Dovecot drops its privileges), Dovecot 2.3 with its director, and a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

TOOLS = Path(__file__).parent / "tools"
TICKS = os.sysconf("SC_CLK_TCK")
HOSTS = [f"127.0.1.{i}" for i in range(1, 5)]
READY_WITHIN = 30.0
SETTLED = 0.3
"""Seconds without CPU used by any director after which a run counts as drained."""

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

OURS = """\
state = "{state}"
[ring]
servers = [{servers}]
{listen}
{secret}
[backends]
mail_servers = [{hosts}]
[dovecot]
base_dir = "{run}"
[listen.api]
path = "{run}/api.sock"
"""


@dataclass
class Instance:
    """One director under test."""

    socket: Path
    pid: Callable[[], int]


@dataclass
class System:
    """One implementation: a director alone, or three in a ring."""

    name: str
    directors: list[Instance] = field(default_factory=list)

    def cpu(self) -> list[float]:
        return [cpu_seconds(d.pid()) for d in self.directors]


@dataclass
class Sample:
    rate: float
    p50: float
    p99: float
    cpu: float
    """CPU seconds of the asked director per 100,000 requests."""
    cpu_others: float
    """The same of the busier neighbour."""
    failed: int


@dataclass
class Load:
    name: str
    requests: int
    connections: int
    window: int


LOADS = [Load("one at a time", 20_000, 1, 1), Load("pipelined", 200_000, 8, 128)]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def child_named(parent: int, name: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            if head.endswith(f"({name}") and int(rest.split()[1]) == parent:
                return int(entry.name)
    raise SystemExit(f"the original's process {name} is not running")


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} is not ready after {READY_WITHIN:.0f} s")
        time.sleep(0.05)


@contextmanager
def started(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Bench:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.first_user = 0
        for tool in ("loadgen", "fakeauth"):
            subprocess.run(["gcc", "-O2", "-o", folder / tool, TOOLS / f"{tool}.c"], check=True)

    def fake_auth(self, runs: list[Path]) -> None:
        sockets = [run / "auth-login" for run in runs]
        for path in sockets:
            path.unlink(missing_ok=True)
        self.stack.enter_context(started(self.folder / "fakeauth", *sockets, log=self.folder / "auth.log"))
        wait_for("fakeauth", lambda: all(s.exists() for s in sockets))

    def original(self, count: int) -> System:
        system = System("original")
        addresses = [f"127.0.21.{i}" for i in range(1, count + 1)]
        runs = []
        for i, address in enumerate(addresses):
            folder = self.folder / f"o{count}{i}"
            run = folder / "run"
            (folder / "run").mkdir(parents=True)
            runs.append(run)
            ring = f"inet_listener ring {{\n address = {address}\n port = 9090\n }}" if count > 1 else ""
            servers = " ".join(f"{a}:9090" for a in addresses) if count > 1 else ""
            (folder / "conf").write_text(
                ORIGINAL.format(
                    run=run,
                    name=f"o{count}{i}",
                    address=address,
                    folder=folder,
                    servers=servers,
                    hosts=" ".join(HOSTS),
                    ring=ring,
                )
            )
            dovecot = shutil.which("dovecot", path=os.environ["PATH"] + ":/usr/sbin") or "dovecot"
            master = self.stack.enter_context(
                started(dovecot, "-F", "-c", folder / "conf", log=folder / "out")
            )
            wait_for("the original", (run / "login/director").exists)
            system.directors.append(
                Instance(run / "login/director", lambda m=master: child_named(m.pid, "director"))
            )
        self.fake_auth(runs)
        for director in system.directors:  # the original's master starts it at the first connection
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(director.socket))
                client.recv(1)
        return system

    def ours(self, count: int, state: str, name: str, network: int) -> System:
        system = System(name)
        addresses = [f"127.0.{network}.{i}" for i in range(1, count + 1)]
        secret = self.folder / "ring.secret"
        secret.write_text("0123456789abcdef0123456789abcdef")
        secret.chmod(0o600)
        folders = [self.folder / f"n{network}{count}{i}" for i in range(count)]
        for folder in folders:
            (folder / "run/login").mkdir(parents=True)
        self.fake_auth([folder / "run" for folder in folders])
        for folder, address in zip(folders, addresses, strict=True):
            (folder / "director.toml").write_text(
                OURS.format(
                    state=state,
                    servers=", ".join(f'"{a}:9090"' for a in addresses) if count > 1 else "",
                    listen=f'listen = "{address}:9090"' if count > 1 else "",
                    secret=f'secret_file = "{secret}"' if count > 1 else "",
                    hosts=", ".join(f'"{h}"' for h in HOSTS),
                    run=folder / "run",
                )
            )
            process = self.stack.enter_context(
                started(
                    sys.executable,
                    "-m",
                    "director",
                    "serve",
                    "-c",
                    folder / "director.toml",
                    log=folder / "log",
                )
            )
            system.directors.append(Instance(folder / "run/login/director/login", lambda p=process: p.pid))
        for folder in folders:
            wait_for(name, lambda f=folder: " event=ready " in (f / "log").read_text())
        return system

    def measure(self, system: System, load: Load) -> Sample:
        self.first_user += load.requests
        before = system.cpu()
        answer = subprocess.run(
            [
                self.folder / "loadgen",
                "-n",
                str(load.requests),
                "-s",
                str(self.first_user),
                "-c",
                str(load.connections),
                "-w",
                str(load.window),
                system.directors[0].socket,
            ],
            check=True,
            capture_output=True,
        )
        after = self.drained(system)
        result = json.loads(answer.stdout)
        used = [(b - a) * 100_000 / load.requests for a, b in zip(before, after, strict=True)]
        failed = result["fail"] + result["nohost"] + load.requests - result["done"]
        return Sample(
            result["rate"], result["p50_ms"], result["p99_ms"], used[0], max(used[1:], default=0.0), failed
        )

    @staticmethod
    def drained(system: System) -> list[float]:
        used = system.cpu()
        while True:
            time.sleep(SETTLED)
            now = system.cpu()
            if sum(now) - sum(used) <= 0.02:
                return now
            used = now


COLUMNS: dict[str, tuple[Callable[[Sample], float], int]] = {
    "rate /s": (lambda sample: sample.rate, 0),
    "p50 ms": (lambda sample: sample.p50, 3),
    "p99 ms": (lambda sample: sample.p99, 3),
    "CPU s/100k": (lambda sample: sample.cpu, 2),
    "CPU, neighbour": (lambda sample: sample.cpu_others, 2),
}


def show(scenario: str, load: Load, samples: dict[str, list[Sample]]) -> None:
    """min / median / max of each figure, and of its ratio to the original in the same round."""
    print(f"\n{scenario}, {load.name} ({load.connections} x {load.window}, {load.requests} new users a run)")
    print(f"{'':15}{'':14}{'min':>9}{'median':>9}{'max':>9}   ours / original")
    for name, (value, digits) in COLUMNS.items():
        for system, runs in samples.items():
            values = [value(sample) for sample in runs]
            if not any(values):
                continue
            figures = "".join(f"{v:>9.{digits}f}" for v in (min(values), median(values), max(values)))
            ratios = [value(s) / value(o) for s, o in zip(runs, samples["original"], strict=True) if value(o)]
            told = f"{min(ratios):.2f} / {median(ratios):.2f} / {max(ratios):.2f}" if ratios else ""
            print(f"{name:15}{system:14}{figures}   {'' if system == 'original' else told}".rstrip())
    print("failed: " + ", ".join(f"{name} {sum(s.failed for s in runs)}" for name, runs in samples.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual number of requests")
    parser.add_argument("--only", choices=["alone", "ring"], help="one scenario only")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("the original needs root: run this as root")
    for scenario, count in (("alone", 1), ("ring", 3)):
        if options.only not in (None, scenario):
            continue
        with tempfile.TemporaryDirectory(prefix="bench") as name, ExitStack() as stack:
            folder = Path(name)
            folder.chmod(0o755)
            bench = Bench(folder, stack)
            systems = [
                bench.original(count),
                bench.ours(count, "sqlite:///state.db", "ours, sqlite", 22),
                bench.ours(count, "memory:", "ours, memory", 23),
            ]
            for load in LOADS:
                size = Load(load.name, int(load.requests * options.scale), load.connections, load.window)
                for system in systems:  # the first run forms the original's ring and warms everybody up
                    bench.measure(system, Load("", max(1000, size.requests // 20), 1, 16))
                samples: dict[str, list[Sample]] = {system.name: [] for system in systems}
                for turn in range(options.runs):
                    for system in random.sample(systems, len(systems)):
                        samples[system.name].append(bench.measure(system, size))
                    print(f"{scenario}, {load.name}: round {turn + 1} of {options.runs}", file=sys.stderr)
                show("alone" if count == 1 else "ring of three, all to one", size, samples)


if __name__ == "__main__":
    main()
