"""The `director-authreply 1.0` protocol of Dovecot 2.3: it completes replies of auth.

Both sides begin with a VERSION line. Each further line of the client is returned as a login process would get
it from the director: an `OK` line that asks for a proxy gets a host, all other lines stay unchanged.
"""

from __future__ import annotations

from director.errors import PeerError
from director.wire.tabs import is_version

LINE_LIMIT = 8192
"""Bytes of the longest line a client may send, including its LF."""

GREETING = b"VERSION\tdirector-authreply-server\t1\t0\n"
CLIENT_NAME, VERSION_MAJOR = b"director-authreply-client", 1


class AuthreplyError(PeerError):
    """A client sent something that is not this protocol. Close the connection and log the text."""


def check_version(line: bytes) -> None:
    """Accept the client's first line: the protocol and its major version, with any minor version.

    Args:
        line: without its LF.

    Raises:
        AuthreplyError: the line is anything else. It is not quoted, because it may be a reply with a
            password.
    """
    if not is_version(line, CLIENT_NAME, VERSION_MAJOR):
        expected = f"VERSION {CLIENT_NAME.decode()} {VERSION_MAJOR} 0"
        raise AuthreplyError(f"authreply client sent invalid handshake: expected {expected} first")
