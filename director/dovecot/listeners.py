"""The listeners of Dovecot 2.3's `service director`: what each is for, and which users may connect."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from director.dovecot import values
from director.dovecot.doveconf import Block
from director.dovecot.notes import Notes

EVERYWHERE = "*, ::"
"""The default of `listen`."""
DOVEADM_PORT = "director_doveadm_port"
KINDS = ("login", "notify", "userdb", "admin", "authreply", "ring")
PATHS = {
    "login": "login/director/login",
    "notify": "login/director/proxy-notify",
    "userdb": "director-userdb",
    "admin": "director-admin",
    "authreply": "director-authreply",
}
"""The director's own defaults, relative to base_dir."""
_OFF_UNTIL_SET = {"login/director", "login/proxy-notify"}
"""Dovecot's own listeners that are off unless the configuration sets a mode. All others have mode 0600."""
_BY_NAME = {
    "userdb": "userdb",
    "authreply": "authreply",
    "admin": "admin",
    "doveadm": "admin",
    "notify": "notify",
    "ring": "ring",
    "auth": "login",
}


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A listener, on or off."""

    sort: str
    """`unix_listener`, `fifo_listener` or `inet_listener`."""
    name: str
    """Path relative to base_dir; for TCP a word."""
    kind: str
    """One of KINDS."""
    mode: int = 0
    """0 (or, for TCP, port 0): it is off."""
    user: str = ""
    group: str = ""
    addresses: tuple[str, ...] = ()
    """For TCP: its own addresses, or those of `listen`; 0.0.0.0 and :: stand for all addresses."""
    port: int = 0
    extra: tuple[str, ...] = ()
    """Other settings, such as `haproxy = yes`."""

    @property
    def on(self) -> bool:
        return bool(self.port if self.sort == "inet_listener" else self.mode)

    @property
    def where(self) -> str:
        """The name of the listener in notes."""
        return f"service director, {self.sort} {self.name or self.port}"


def listeners(root: Block, notes: Notes) -> list[Listener]:
    """The listeners of `service director`, each once, including the built-in `director-admin`.

    Listeners without a name are not merged.

    Args:
        root: the configuration, with variables replaced.
    """
    found: dict[tuple[str, str | int], Block] = {
        ("unix_listener", "director-admin"): Block(
            kind="unix_listener", name="director-admin", settings={"mode": "0600"}
        )
    }
    for service in root.all("service", "director"):
        for block in service.blocks:
            if block.kind not in ("unix_listener", "fifo_listener", "inet_listener"):
                continue
            key = block.kind, block.name or len(found)
            built_in = {"mode": "0" if block.name in _OFF_UNTIL_SET else "0600"}
            before = found[key].settings if key in found else built_in
            found[key] = Block(kind=block.kind, name=block.name, settings=before | block.settings)
    return [_listener(block, root, notes) for block in found.values()]


def first_ring(found: Sequence[Listener]) -> Listener | None:
    """Return the listener whose address and port are those of the director in the ring."""
    return next((listener for listener in found if listener.kind == "ring" and listener.on), None)


def opened_listener(found: Sequence[Listener], kind: str) -> Listener | None:
    """The socket or FIFO of this kind that the director opens: with the usual name, else the first."""
    files = [
        listener
        for listener in found
        if listener.kind == kind and listener.on and listener.sort != "inet_listener"
    ]
    return next((listener for listener in files if listener.name == PATHS[kind]), files[0] if files else None)


def _listener(block: Block, root: Block, notes: Notes) -> Listener:
    settings = block.settings
    where = f"service director, {block.kind} {block.name}".rstrip()
    known = {"mode", "user", "group", "address", "port"}
    extra = tuple(
        f"{key} = {value}" for key, value in settings.items() if key not in known and value not in ("", "no")
    )
    tcp = block.kind == "inet_listener"
    port = notes.read(f"{where}: port", settings.get("port") or "0", values.port, 0) if tcp else 0
    return Listener(
        sort=block.kind,
        name=block.name,
        kind=_kind(block, port, root),
        mode=0 if tcp else notes.read(f"{where}: mode", settings.get("mode") or "0", values.mode, 0),
        user=notes.read(f"{where}: user", settings.get("user", ""), str, ""),
        group=notes.read(f"{where}: group", settings.get("group", ""), str, ""),
        addresses=_addresses(where, settings.get("address", ""), root, notes) if tcp and port else (),
        port=port,
        extra=extra,
    )


def _addresses(where: str, written: str, root: Block, notes: Notes) -> tuple[str, ...]:
    what, text = (f"{where}: address", written) if written else ("listen", root.get("listen"))
    return values.addresses(" ".join(notes.words(what, text))) or values.addresses(EVERYWHERE)


def _kind(block: Block, port: int, root: Block) -> str:
    # As in Dovecot 2.3: by the text after the last hyphen, else by the kind of listener.
    if block.kind == "fifo_listener":
        return "notify"
    # 2.2 also has a setting for this port
    if port and root.get(DOVEADM_PORT) == str(port):
        return "admin"
    word = block.name.rpartition("/")[2].rpartition("-")[2]
    return _BY_NAME.get(word, "ring" if block.kind == "inet_listener" else "login")
