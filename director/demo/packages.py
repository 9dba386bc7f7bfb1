"""Debian packages that the set-up, the demo and the tests need, installed with apt where that is allowed.

    python3 director/demo/packages.py venv compiler dovecot redis

Standard library only, nothing of this project: the Makefile runs it before there is a virtual environment.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
DOVECOT_PROGRAMS = Path("/usr/lib/dovecot")
POLICY = Path("/usr/sbin/policy-rc.d")
REFUSED = 77
FAILED = 69


class Missing(Exception):
    """Packages are missing and were not installed. The text says what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


def missing(*groups: str) -> list[str]:
    """Names of the Debian packages of these groups that this machine lacks."""
    return [package for group in groups for package, present in GROUPS[group].items() if not present()]


def install(*groups: str, report: Callable[[str], None]) -> None:
    """Install the missing packages of these groups. The services that come with a package are not started.

    report: called with what is about to be done. apt's own progress goes to the standard output.
    Raises Missing where this user may not install, or apt fails.
    """
    wanted = missing(*groups)
    if not wanted:
        return
    names = " ".join(wanted)
    if shutil.which("apt-get", path=SEARCH) is None:
        raise Missing(
            f"not installed: {names} (Debian's names); install them with your package manager", REFUSED
        )
    if os.geteuid() != 0:
        raise Missing(f"not installed: {names}; install them: sudo apt-get install {names}", REFUSED)
    report(f"installing with apt-get: {names}")
    options = ["-q", "-o", "DPkg::Lock::Timeout=120"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _services_stay_stopped():
        for command in (["update"], ["install", "-y", "--no-install-recommends", *wanted]):
            result = subprocess.run(
                ["apt-get", *options, *command], env=environment, stdin=subprocess.DEVNULL
            )
            if result.returncode != 0:
                raise Missing(
                    f"apt-get {command[0]} failed with exit code {result.returncode}, see above", FAILED
                )
    if still := missing(*groups):
        raise Missing(f"apt-get installed {names}, but {' '.join(still)} cannot be found", FAILED)


@contextmanager
def _services_stay_stopped() -> Iterator[None]:
    """Keep a new Dovecot or Redis from starting: it would take the ports of the demo and the tests."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=SEARCH) is not None


def _dovecot(name: str) -> Callable[[], bool]:
    return (DOVECOT_PROGRAMS / name).exists


def _venv() -> bool:
    return importlib.util.find_spec("venv") is not None and importlib.util.find_spec("ensurepip") is not None


def _headers() -> bool:
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()


def _compose() -> bool:
    return shutil.which("docker-compose", path="/usr/bin") is not None


GROUPS: dict[str, dict[str, Callable[[], bool]]] = {
    "venv": {"python3-venv": _venv},
    "git": {"git": _program("git")},
    "compiler": {
        "gcc": _program("gcc"),
        "libc6-dev": Path("/usr/include/stdio.h").exists,
        "python3-dev": _headers,
    },
    "dovecot": {
        "dovecot-core": _program("dovecot"),
        "dovecot-imapd": _dovecot("imap"),
        "dovecot-pop3d": _dovecot("pop3"),
        "dovecot-lmtpd": _dovecot("lmtp"),
    },
    "protocols": {
        "dovecot-managesieved": _dovecot("managesieve"),
        "dovecot-submissiond": _dovecot("submission"),
    },
    "debian13": {"debootstrap": _program("debootstrap")},
    "engine": {
        "docker.io": _program("dockerd"),
        "docker-compose": _compose,
        "debootstrap": _program("debootstrap"),
        "iptables": _program("iptables"),
    },
    "clocks": {"faketime": _program("faketime")},
    "redis": {"redis-server": _program("redis-server")},
    "prometheus": {"prometheus": _program("promtool")},
    "systemd": {"systemd": _program("systemd-analyze")},
    "lookups": {
        "nginx": _program("nginx"),
        "libnginx-mod-mail": Path("/usr/lib/nginx/modules/ngx_mail_module.so").exists,
        "postfix": _program("postmap"),
        "dovecot-auth-lua": Path("/usr/lib/dovecot/modules/auth/libauthdb_lua.so").exists,
    },
}


def main(groups: list[str]) -> int:
    try:
        install(*groups, report=lambda text: print(text, flush=True))
    except Missing as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
