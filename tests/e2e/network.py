"""A network namespace for processes of a test, with its own addresses and its own `/etc/hosts`, which
tests change. Only root can make one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import ROOT, until
from tests.needs import needs, needs_root


class Network:
    """A network, used as a context manager.

    `python` is the program that starts processes in it. Unix sockets are shared with processes outside.
    """

    def __init__(self, folder: Path) -> None:
        needs("unshare", "nsenter", "ip", "mount")
        needs_root("it makes a network namespace")
        folder.mkdir(parents=True, exist_ok=True)
        self._hosts, self._python = folder / "hosts", folder / "python"
        self._holder: subprocess.Popen[bytes] | None = None
        self.names: dict[str, str] = {}

    def __enter__(self) -> Network:
        self._write()
        self._holder = subprocess.Popen(["unshare", "--net", "--mount", "sleep", "infinity"])
        here = Path("/proc/self/ns/net").readlink()
        until(lambda: Path(f"/proc/{self._holder.pid}/ns/net").readlink() != here)  # type: ignore[union-attr]
        self.run("ip", "link", "set", "lo", "up")
        self.run("mount", "--bind", str(self._hosts), "/etc/hosts")
        inside = " ".join(self._inside())
        self._python.write_text(f'#!/bin/sh\ncd {ROOT} && exec {inside} --wd={ROOT} {sys.executable} "$@"\n')
        self._python.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._holder is not None
        self._holder.kill()
        self._holder.wait()

    @property
    def python(self) -> str:
        return str(self._python)

    def run(self, *command: str) -> str:
        """Run a command in it, and return its output, including errors. The command must not fail."""
        done = subprocess.run(
            [*self._inside(), *command], cwd=ROOT, text=True, capture_output=True, timeout=20, check=False
        )
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    def add(self, *addresses: str) -> None:
        for address in addresses:
            # With a wider mask all addresses would be local.
            self.run("ip", "address", "add", f"{address}/32", "dev", "lo")

    def drop(self, address: str) -> None:
        self.run("ip", "address", "del", f"{address}/32", "dev", "lo")

    def say(self, **names: str | None) -> None:
        """Give names (with `_` for a dot) these addresses from now on; None: no address."""
        for name, address in names.items():
            self.names.pop(name, None)
            if address is not None:
                self.names[name] = address
        self._write()

    def _write(self) -> None:
        lines = [f"{address} {name.replace('_', '.')}\n" for name, address in self.names.items()]
        self._hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))  # in place: the file is mounted

    def _inside(self) -> list[str]:
        assert self._holder is not None
        return ["nsenter", f"--target={self._holder.pid}", "--net", "--mount"]
