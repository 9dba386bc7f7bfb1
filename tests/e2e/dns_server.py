"""A name server for the network of a test. It answers from a file, which it reads again for each question.

    python -m tests.e2e.dns_server FILE

FILE: a JSON object of names and lists of IPv4 addresses. Other names do not exist.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path

HEADER = struct.Struct(">HHHHHH")
ANSWER, NO_SUCH_NAME = 0x8580, 0x8583
A, INTERNET = 1, 1


def answered(question: bytes, table: dict[str, list[str]]) -> bytes:
    """Return the reply to a query with one question."""
    number, _, _, _, _, _ = HEADER.unpack_from(question)
    labels, at = [], HEADER.size
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    end = at + 5
    (kind,) = struct.unpack_from(">H", question, at + 1)
    found = table.get(".".join(labels))
    addresses = found if found is not None and kind == A else []
    header = HEADER.pack(number, NO_SUCH_NAME if found is None else ANSWER, 1, len(addresses), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", A, INTERNET, 0, 4) + socket.inet_aton(address)
        for address in addresses
    )
    return header + question[HEADER.size : end] + records


def main() -> None:
    path = Path(sys.argv[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 53))
        print("listening", flush=True)
        while True:
            question, peer = sock.recvfrom(512)
            sock.sendto(answered(question, json.loads(path.read_text())), peer)


if __name__ == "__main__":
    main()
