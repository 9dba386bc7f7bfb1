"""Runs the commands of guides, word for word, on machines made for this: `python -m tests.guides GUIDE...

BASE [-v]`.

A GUIDE is a page of docs/. Its blocks marked ```sh are run in order, each on the machine that its heading
names: `## 3. The director (proxy1)`. BASE is a root file system with systemd; it is copied. The last line of
a block may be `scp -p FILE MACHINE:FOLDER`; the machines do not know each other's keys. Prints the time of
each step. It is no test: it fetches packages, and takes minutes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.machines import machines

ROOT = Path(__file__).parents[1]
ADDRESSES = {"mail1": "10.1.0.1", "mail2": "10.1.0.2", "proxy1": "10.0.0.1", "proxy2": "10.0.0.2"}
FETCHES = re.compile(r"\b(apt-get|pip) ")
COPIES = re.compile(r"^scp -p (\S+) (\w+):(\S+)\n\Z", re.MULTILINE)


class Step(NamedTuple):
    title: str
    machine: str
    script: str


def steps(page: str) -> Iterator[Step]:
    """Yield the blocks of a page, each with its heading."""
    title = machine = ""
    for part in re.split(r"^(?=#+ |```)", page, flags=re.MULTILINE):
        if heading := re.match(r"#+ (.*?)(?: \((\w+)\))?\n", part):
            title, machine = heading[1], heading[2] or ""
        elif block := re.match(r"```sh\n(.*)", part, flags=re.DOTALL):
            yield Step(title, machine, block[1])


def main(pages: list[Path], base: Path, *, verbose: bool) -> int:
    todo = [step for page in pages for step in steps(page.read_text())]
    names = {name: ADDRESSES[name] for name in ADDRESSES if name in {step.machine for step in todo}}
    total = 0.0
    with (
        tempfile.TemporaryDirectory(dir=base.parent) as folder,
        machines(base, Path(folder), names) as running,
    ):
        checkout = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        for machine in running.values():
            (machine.root / "root/director").mkdir()
            subprocess.run(["tar", "x", "-C", machine.root / "root/director"], input=checkout, check=True)
        for step in todo:
            began = time.monotonic()
            copy = COPIES.search(step.script)
            script = step.script[: copy.start()] if copy else step.script
            result = running[step.machine].run(script, outside=bool(FETCHES.search(script)))
            if copy:
                file, to, folder_there = copy.groups()
                source = running[step.machine].root / file.lstrip("/")
                shutil.copy2(source, running[to].root / folder_there.lstrip("/"))
            took = time.monotonic() - began
            total += took
            print(f"{took:7.1f} s  {step.machine:7} {step.title}", flush=True)
            if result.returncode or verbose:
                print(result.stdout, flush=True)
            if result.returncode:
                print(f"failed with exit code {result.returncode}:\n{step.script}")
                return 1
    print(f"{total:7.1f} s  in all")
    return 0


if __name__ == "__main__":
    *given, last = [Path(argument) for argument in sys.argv[1:] if argument != "-v"]
    sys.exit(main(given, last, verbose="-v" in sys.argv))
