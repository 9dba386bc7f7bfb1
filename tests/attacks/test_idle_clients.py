"""Clients of operators' and look-up listeners that connect, send nothing or little, and stay."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from director.wire.socketmap import netstring
from tests.attacks.targets import Target

HELD = 300
"""More clients than any of these listeners accepts."""
ADMIN_HELLO, AUTHREPLY_HELLO = (
    b"VERSION\tdirector-doveadm\t1\t0\n",
    b"VERSION\tdirector-authreply-client\t1\t0\n",
)
REQUESTS = {
    "admin": ADMIN_HELLO + b"HOST-LIST\n",
    "socketmap": netstring(b"lmtp alice"),
    "authreply": AUTHREPLY_HELLO + b"OK\t1\tuser=alice\tproxy\n",
}
ANSWERS = {"admin": b"\n\n", "socketmap": b",", "authreply": b"proxy_refresh="}
"""Bytes that every complete answer contains."""
LISTENERS = ("admin", "admin-tcp", "socketmap", "socketmap-tcp", "authreply")


def answered(target: Target, name: str) -> bool:
    """Whether a new client of a listener is answered."""
    kind = name.removesuffix("-tcp")
    with target.connect(name) as sock:
        sock.settimeout(20)
        data = b""
        try:
            sock.sendall(REQUESTS[kind])
            while ANSWERS[kind] not in data:
                part = sock.recv(65536)
                if not part:
                    return False
                data += part
        except ConnectionError:
            return False
    return True


@pytest.mark.shows("A-3")
@pytest.mark.parametrize("name", LISTENERS)
@pytest.mark.parametrize("part", ["nothing", "half", "request"])
def test_three_hundred_idle_clients_of_one_address_lock_no_other_client_out(
    attacked: Target, name: str, part: str
) -> None:
    request = REQUESTS[name.removesuffix("-tcp")]
    words = {"nothing": b"", "half": request[:-2], "request": request}[part]
    with ExitStack() as stack:
        began = time.monotonic()
        for number in range(HELD):
            stack.enter_context(attacked.connect(name)).sendall(words)
            if number % 20 == 0:
                assert answered(attacked, name), f"after {number} idle clients"
        assert all(answered(attacked, name) for _ in range(20))
        assert attacked.director.command("status").returncode == 0
        print(f"{HELD} idle clients of {name}, {part}: {time.monotonic() - began:.2f} s in all")
    assert attacked.director.all_logged("internal_error") == []
