"""The lab's containers: Compose, version 2 or 1.29, and the engine. This module makes no decisions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND_TIMEOUT = 120.0
UP_TIMEOUT = 600.0
SERVICE = "com.docker.compose.service"
PROJECT = "com.docker.compose.project"


class CommandFailed(Exception):
    """A command of the engine or in a container did not end with 0, or not in time."""

    def __init__(self, command: Sequence[str], output: str) -> None:
        super().__init__(f"{' '.join(command)}: {output.strip()[-500:] or 'no output'}")


class Compose:
    """The project that the environment and the file .env name. Services have their names there."""

    def __init__(self, dovecot: str | None = None) -> None:
        """Find Compose and the project.

        `dovecot`: `2.3` or `2.4`, for everything that is started; None: as .env says.

        Raises:
            CommandFailed: no Compose is installed.
        """
        self._environment = os.environ | ({"DOVECOT": dovecot} if dovecot else {})
        self._compose = find_compose()
        self.project = self._variable("COMPOSE_PROJECT_NAME")
        self.stops: dict[str, list[float]] = {}
        """Service -> Unix times at which its container was seen to have ended."""
        self._published: dict[tuple[str, int], str] = {}

    def run(self, *arguments: str) -> str:
        """Return the output of `docker compose ARGUMENTS`. This and all methods below raise CommandFailed."""
        return self._run([*self._compose, *arguments], UP_TIMEOUT)

    def docker(self, *arguments: str, given: str = "", timeout: float = COMMAND_TIMEOUT) -> str:
        """Return the output of `docker ARGUMENTS`; `given` is its input."""
        return self._run(["docker", *arguments], timeout, given)

    def container(self, service: str) -> str:
        """Return the id of the service's container, running or not."""
        found = self.docker(
            "ps",
            "-aq",
            "--filter",
            f"label={PROJECT}={self.project}",
            "--filter",
            f"label={SERVICE}={service}",
        ).split()
        if len(found) != 1:
            raise CommandFailed(["docker", "ps"], f"{len(found)} containers of {service}; run `make lab`")
        return found[0]

    def services(self) -> dict[str, str]:
        """Return the state of every service with a container, in the engine's words: `Up 5 seconds
        (healthy)`."""
        form = f'{{{{.Label "{SERVICE}"}}}} {{{{.Status}}}}'
        lines = self.docker(
            "ps", "-a", "--filter", f"label={PROJECT}={self.project}", "--format", form
        ).splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def exec(self, service: str, *command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Return the output of `command` in the service's container."""
        return self.docker("exec", self.container(service), *command, timeout=timeout)

    def logs(self, service: str, since: str) -> list[str]:
        """Return both outputs of the service since an engine's time stamp, which begins each line."""
        command = ["docker", "logs", "--timestamps", "--since", since, self.container(service)]
        # Dovecot logs to stderr; the order between the two outputs does not matter
        return self._run(command, COMMAND_TIMEOUT, both=True).splitlines()

    def kill(self, *services: str) -> None:
        """Kill all these services at once. The engine does not restart them."""
        self.docker("kill", *map(self.container, services))
        self._noted(services)

    def stop(self, *services: str) -> None:
        self.docker("stop", *map(self.container, services))
        self._noted(services)

    def start(self, *services: str) -> None:
        self.docker("start", *map(self.container, services))

    def recreate(self, *services: str) -> None:
        """Make the containers again if image or settings have changed, or start what is missing."""
        self.run("up", "-d", "--no-deps", "--no-build", *services)

    def remove(self, *services: str, volumes: Sequence[str] = ()) -> None:
        """Kill and remove the containers, and then these volumes of the project."""
        if services:
            self.docker("rm", "-f", *map(self.container, services))
        if volumes:
            self.docker("volume", "rm", *(f"{self.project}_{volume}" for volume in volumes))

    def inspect(self, service: str) -> Any:
        """Return all that the engine knows of the service's container."""
        return json.loads(self.docker("inspect", self.container(service)))[0]

    def address(self, service: str, network: str) -> str:
        """Return the service's address in a network; empty: it has none."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        address = networks.get(f"{self.project}_{network}", {}).get("IPAddress", "")
        assert isinstance(address, str)
        return address

    def published(self, service: str, port: int) -> str:
        """Return `ADDRESS:PORT` on this machine for the service's port."""
        key = service, port
        if key not in self._published:
            self._published[key] = self.docker("port", self.container(service), f"{port}/tcp").split()[0]
        return self._published[key]

    @contextmanager
    def disconnected(self, service: str, network: str) -> Iterator[None]:
        """Disconnect the service from a network while the block runs. Afterwards it has its aliases again."""
        container, full = self.container(service), f"{self.project}_{network}"
        aliases = self.inspect(service)["NetworkSettings"]["Networks"][full]["Aliases"]
        self.docker("network", "disconnect", full, container)
        try:
            yield
        finally:
            names = [word for alias in aliases if alias not in container for word in ("--alias", alias)]
            self.docker("network", "connect", *names, full, container)

    @contextmanager
    def elsewhere(self, service: str, network: str) -> Iterator[None]:
        """Stop the service, and give its address to other containers while the block runs, so that it gets
        another address."""
        image = self.inspect(service)["Config"]["Image"]
        before = self.address(service, network)
        self.stop(service)
        fillers: list[str] = []
        try:
            # The engine gives out the lowest free address, or the next: repeat until it is the service's
            # address.
            while before not in map(self._only_address, fillers):
                if len(fillers) == 16:
                    raise CommandFailed(
                        ["docker", "run"], f"the engine does not give {before} to another one"
                    )
                # Compose v2 labels its images too: these are no containers of the service.
                labels = ("--label", f"{PROJECT}=", "--label", f"{SERVICE}=")
                command = ("run", "-d", *labels, "--network", f"{self.project}_{network}")
                fillers.append(self.docker(*command, "--entrypoint", "sleep", image, "600").strip())
            yield
        finally:
            if fillers:
                self.docker("rm", "-f", *fillers)

    def new_image(self, image: str) -> None:
        """Make a new build of an image, with the same content, for the engine and Compose."""
        self.docker(
            "build", "-q", "-t", image, "-", given=f"FROM {image}\nLABEL lab.built={time.time():.0f}\n"
        )

    def image_sizes(self) -> list[str]:
        """Return the lab's own images, each with its size in the engine's words: `lb 90MB`."""
        form = "{{.Repository}} {{.Size}}"
        lines = self.docker("images", "--filter", "label=director-lab", "--format", form).splitlines()
        return sorted({line.partition("/")[2] for line in lines if line.startswith("director-lab/")})

    def _only_address(self, container: str) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.docker("inspect", "-f", form, container).strip()

    def _noted(self, services: Sequence[str]) -> None:
        for service in services:
            finished = self.inspect(service)["State"]["FinishedAt"]
            self.stops.setdefault(service, []).append(
                datetime.fromisoformat(finished[:26] + "+00:00").timestamp()
            )

    def _run(self, command: Sequence[str], timeout: float, given: str = "", *, both: bool = False) -> str:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=self._environment,
                input=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if both else subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(command, f"not done within {timeout:.0f} s") from None
        if done.returncode != 0:
            raise CommandFailed(command, done.stderr or done.stdout)
        return done.stdout

    def _variable(self, name: str) -> str:
        if value := self._environment.get(name):
            return value
        for line in (ROOT / ".env").read_text().splitlines():
            if line.startswith(f"{name}="):
                return line.partition("=")[2]
        raise CommandFailed([], f"{name} is not set in .env")


def find_compose() -> list[str]:
    """Return the words `docker compose`, or `docker-compose`.

    Raises CommandFailed if neither is installed.
    """
    for command in (["docker", "compose"], ["docker-compose"]):
        there = shutil.which(command[0])
        if there and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    raise CommandFailed(
        ["docker", "compose"], "install Compose: the package docker-compose, or the plugin of version 2"
    )
