"""Runs the commands of deploy/README.md, word for word, in the running lab: `python -m tests.lab.guide [-v]`.

Its blocks marked ```sh run in order, each as a script that stops at the first error. If only Compose 1.29 is
installed, `docker compose` is read as `docker-compose`. Exit code 1 if a command fails.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time

from tests.guides import steps
from tests.lab.compose import ROOT, find_compose

PAGE = ROOT / "deploy/README.md"
STEP_TIMEOUT = 300.0


def main(*, verbose: bool) -> int:
    compose = " ".join(map(shlex.quote, find_compose()))
    began, count = time.monotonic(), 0
    for step in steps(PAGE.read_text()):
        script = step.script.replace("docker compose ", f"{compose} ")
        start = time.monotonic()
        try:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=ROOT,
                env=os.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=STEP_TIMEOUT,
            )
        except subprocess.TimeoutExpired as late:
            print(f"{step.title}: not done within {STEP_TIMEOUT:.0f} s:\n{step.script}\n{_text(late.stdout)}")
            return 1
        count += 1
        print(f"{time.monotonic() - start:7.1f} s  {step.title}", flush=True)
        if verbose or done.returncode:
            print(done.stdout, flush=True)
        if done.returncode:
            print(f"failed with exit code {done.returncode}:\n{step.script}")
            return 1
    print(f"{time.monotonic() - began:7.1f} s  in all, {count} blocks of {PAGE.relative_to(ROOT)}")
    return 0 if count else 1


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


if __name__ == "__main__":
    sys.exit(main(verbose="-v" in sys.argv[1:]))
