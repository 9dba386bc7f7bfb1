"""`director serve` as a process of its own, on loopback, and what is asked of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from director.demo.ports import DemoError

READY_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0
COMMAND_TIMEOUT = 60.0
ANSWER_TIMEOUT = 20.0
"""Seconds in which the API answers."""
POLL = 0.02


class ServeProcess:
    """A director, with its configuration, log and state in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        member: str,
        base_dir: Path,
        *,
        program: Sequence[str] = ("director",),
        python: str = sys.executable,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare it; nothing is written or started.

        Args:
            member: its address and port in the ring.
            base_dir: of the Dovecot beside it.
            program: the module that is run, and what it is told before `serve`.
            environ: more variables.
        """
        self.folder, self.member, self.run = folder, member, base_dir
        self.program, self.python, self.environ = program, python, environ or {}
        self.name = folder.name
        self.config = folder / "director.toml"
        self.api_path = folder / "api.sock"
        self.log_path = folder / "director.log"
        self.process: subprocess.Popen[bytes] | None = None

    def write(
        self,
        *,
        state: str,
        servers: Sequence[str],
        secret: Path,
        backends: Sequence[str],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Write director.toml.

        Args:
            state: URL of the store; beside a shared one there is a snapshot.
            servers: the members of the ring.
            secret: the file with the ring's secret.
            backends: `backends.mail_servers`.
            settings: further lines, by section.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        sections = {
            "ring": f'servers = {_list(servers)}\nlisten = "{self.member}"\nsecret_file = "{secret}"\n',
            "backends": f"mail_servers = {_list(backends)}\n",
            "dovecot": f'base_dir = "{self.run}"\n',
            "listen.api": f'path = "{self.api_path}"\n',
        }
        for section, lines in (settings or {}).items():
            sections[section] = sections.get(section, "") + lines + "\n"
        snapshot = "" if state.startswith(("sqlite:", "memory:")) else 'snapshot = "sqlite:///snapshot.db"\n'
        text = "".join(f"\n[{section}]\n{lines}" for section, lines in sections.items())
        self.config.write_text(f'state = "{state}"\n{snapshot}{text}')

    @property
    def address(self) -> str:
        return self.member.partition(":")[0]

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start the process and return; wait_ready() follows."""
        with self.log_path.open("ab") as output:
            self.process = subprocess.Popen(
                [self.python, "-m", *self.program, "serve", "-c", str(self.config)],
                env=os.environ | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C must reach only the demo, which then ends everything in order
                start_new_session=True,
            )
        return self

    def wait_ready(self, within: float = READY_TIMEOUT) -> None:
        """Wait until the director answers logins. Raises DemoError with the end of its log if it does not."""
        deadline = time.monotonic() + within
        while not self.ready():
            if not self.running:
                raise DemoError(f"{self.name} ended instead of starting. {self._end_of_log()}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} is not ready after {within:.0f} s. {self._end_of_log()}")
            time.sleep(POLL)

    def ready(self) -> bool:
        try:
            return self.request("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> int:
        """Stop the director as an init system does, and kill it if it does not end in time. Returns the exit
        code."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def restart(self) -> None:
        """Stop, start, wait until it answers logins again."""
        self.stop()
        self.start()
        self.wait_ready()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `director ARGUMENTS` for this director. The caller checks the exit code and the output."""
        return subprocess.run(
            [sys.executable, "-m", "director", *arguments],
            env=os.environ | {"DIRECTOR_CONFIG": str(self.config)},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )

    def ask(self, *arguments: str) -> Any:
        """Return the document that a reading command prints with --json. Raises DemoError if the command
        fails."""
        result = self.command(*arguments, "--json")
        if result.returncode != 0:
            raise DemoError(
                f"director {' '.join(arguments)} at {self.name}: {(result.stderr or result.stdout).strip()}"
            )
        return json.loads(result.stdout)

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return status and body of an answer of the API. Raises OSError or HTTPException while the API is
        not served."""
        connection = _UnixConnection(self.api_path, ANSWER_TIMEOUT)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return a document of the API."""
        status, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _end_of_log(self) -> str:
        return "The end of its log:\n" + ("\n".join(self.log.splitlines()[-8:]) or "(empty)")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _list(texts: Sequence[str]) -> str:
    return json.dumps(list(texts))
