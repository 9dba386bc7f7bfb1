"""A root file system of Debian 13 for chroot, beside the machine's own release, for its Dovecot 2.4.

Made once, with debootstrap, outside the checkout: `python -m tests.debian13` makes it and prints its path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.needs import SEARCH, needs, needs_root

PLACE = Path(os.environ.get("DIRECTOR_DEBIAN13", "/var/cache/director/debian13"))
PACKAGES = (
    "ca-certificates",
    "dovecot-auth-lua",
    "dovecot-imapd",
    "dovecot-lmtpd",
    "dovecot-managesieved",
    "dovecot-pop3d",
    "dovecot-sieve",
    "dovecot-submissiond",
)


def root() -> Path:
    """Return its path, after making it if it is missing.

    If it cannot be made the test is skipped, and in CI it fails.
    """
    if not _complete(PLACE):
        needs_root(f"python -m tests.debian13, for Dovecot 2.4 is not in {PLACE}")
        needs("debootstrap", "chroot")
        make()
    return PLACE


def make() -> None:
    """Fetch and unpack it, in a minute or two; half of it is never used. Raises CalledProcessError."""
    if _complete(PLACE):
        return
    half = PLACE.with_name(PLACE.name + ".new")
    for leftover in (half, PLACE):
        if leftover.exists():
            shutil.rmtree(leftover)
    half.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "trixie"]
    subprocess.run([*command, str(half), mirror()], check=True, env=os.environ | {"PATH": SEARCH})
    half.rename(PLACE)


def mirror() -> str:
    """Return the URL of the Debian mirror that apt of this machine uses.

    Raises:
        CalledProcessError: apt-get failed.
        LookupError: apt has no Debian mirror.
    """
    form = "$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for line in listed.splitlines():
        url, *kind = line.split()
        if kind == ["Debian", "Debian", "main"]:
            return url
    raise LookupError("apt of this machine has no Debian mirror: run apt-get update, or add a source")


def _complete(place: Path) -> bool:
    return (place / "usr/sbin/dovecot").exists() and not (place / "debootstrap").exists()


if __name__ == "__main__":
    make()
    print(PLACE)
    sys.exit(0)
