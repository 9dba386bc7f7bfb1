"""The `director-authreply 1.0` protocol of Dovecot 2.3: replies as auth gives them, sent to be completed.

Both sides open with a VERSION line. Each further line of the client comes back as a login process would get
it from the director: `OK` lines that ask for a proxy with their host, all others as they are.
"""

from __future__ import annotations

from director.errors import PeerError
from director.wire.tabs import is_version

LINE_LIMIT = 8192
"""Bytes of the longest line a client may send, its LF included."""

GREETING = b"VERSION\tdirector-authreply-server\t1\t0\n"
CLIENT_NAME, VERSION_MAJOR = b"director-authreply-client", 1


class AuthreplyError(PeerError):
    """What a client sent is not this protocol. Close the connection and log the text."""


def check_version(line: bytes) -> None:
    """Accept the client's first line: the protocol and its major version, with any minor version.

    Args:
        line: without its LF.

    Raises:
        AuthreplyError: anything else. The line is not quoted: it may be a reply with a password.
    """
    if not is_version(line, CLIENT_NAME, VERSION_MAJOR):
        expected = f"VERSION {CLIENT_NAME.decode()} {VERSION_MAJOR} 0"
        raise AuthreplyError(f"authreply client sent invalid handshake: expected {expected} first")
