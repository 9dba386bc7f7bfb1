"""The stock client of Dovecot 2.3, for proxies of either release: 2.4 has none."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from director.demo.dovecot import Programs, Proxy


def doveadm_director(
    proxy: Proxy, *arguments: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `doveadm director ARGUMENTS` at the director of this proxy.

    `options` are those of doveadm itself.
    """
    command, *rest = arguments
    head = [command, rest.pop(0)] if command == "ring" else [command]
    words = [*options, "director", *head, "-a", str(proxy.run / "director-admin"), *rest]
    return subprocess.run(
        Programs().command("doveadm", *words),
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
