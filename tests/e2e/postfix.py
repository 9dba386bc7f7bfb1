"""A Postfix with its own configuration, queue and port, which runs beside any other."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from director.demo.dovecot import find_program
from director.demo.ports import is_listening
from tests.e2e.processes import until
from tests.needs import needs, needs_root

MASTER = Path("/etc/postfix/master.cf")
MAIN = """compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
maillog_file = /dev/stdout
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.example.com
mydestination =
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = example.com
virtual_transport = error:no mailbox
default_transport = error:not for us
alias_maps =
recipient_delimiter = +
transport_maps = {transport_maps}
"""


def make_configuration(folder: Path, queue: Path, transport_maps: str = "") -> None:
    """Write main.cf, which is all that `postmap -c` needs."""
    folder.mkdir()
    text = MAIN.format(queue=queue, data=folder / "data", transport_maps=transport_maps)
    (folder / "main.cf").write_text(text)


@contextmanager
def postfix(folder: Path, queue: Path, address: str, port: int, transport_maps: str) -> Iterator[Path]:
    """Run Postfix for mail to example.com, and give its log.

    Needs root: its processes run as several users.
    """
    needs("postfix")
    needs_root("start Postfix")
    make_configuration(folder, queue, transport_maps)
    data, log = folder / "data", folder / "log"
    data.mkdir()
    shutil.chown(data, "postfix")
    services = re.sub(r"^smtp( +inet)", rf"{address}:{port}\1", MASTER.read_text(), flags=re.MULTILINE)
    (folder / "master.cf").write_text(services)
    command = [find_program("postfix"), "-c", str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "start-fg"], stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        until(lambda: is_listening(address, port) or process.poll() is not None, within=30)
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        subprocess.run([*command, "stop"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        process.wait(30)
