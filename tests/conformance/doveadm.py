"""The real `doveadm`, run as an operator runs it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

CONFIGURATION = """\
# what `doveadm director` reads without a running Dovecot
base_dir = {folder}/run
director_username_hash = %Lu
"""


class Run(msgspec.Struct):
    """The result of one run."""

    exit_code: int
    out: list[str]
    err: list[str]


class Doveadm:
    """`doveadm` with its own configuration."""

    def __init__(self, folder: Path, names: Sequence[str] = (), configuration: Path | None = None) -> None:
        """Prepare to run.

        `names`: the users of `map -f <names>`. `configuration`: that of a running Dovecot.
        """
        self._configuration = configuration or folder / "doveadm.conf"
        if configuration is None:
            self._configuration.write_text(CONFIGURATION.format(folder=folder))
        self._names = folder / "names"
        self._names.write_text("".join(f"{name}\n" for name in names))

    async def run(self, command: Sequence[str], socket: str = "", base_dir: str = "") -> Run:
        """Run `doveadm COMMAND`, a `director` command. Times are printed in UTC.

        Args:
            command: the words of the command.
            socket: a path or HOST:PORT, given with -a; empty: not given.
            base_dir: given with -o if there is no socket.
        """
        words = [str(self._names) if word == "<names>" else word for word in command]
        if socket:
            after = words.index("director") + (2 if "ring" not in words else 3)
            words[after:after] = ["-a", socket]
        else:
            words[:0] = ["-o", f"base_dir={base_dir}"]
        with anyio.fail_after(30):
            done = await anyio.run_process(
                ["doveadm", "-c", str(self._configuration), *words],
                check=False,
                env={**os.environ, "TZ": "UTC"},
                input=b"",
            )
        return Run(done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines())
