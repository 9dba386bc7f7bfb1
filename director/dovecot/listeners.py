"""The listeners of Dovecot 2.3's `service director`: which of them does what, and who may use it."""

from __future__ import annotations

import re

import msgspec

from director.dovecot.doveconf import Block

KINDS = ("login", "notify", "userdb", "admin", "authreply", "ring")
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
    """One of them, whether it is on or not."""

    sort: str
    """`unix_listener`, `fifo_listener` or `inet_listener`."""
    name: str
    """Below base_dir; for TCP only a word."""
    kind: str
    """One of KINDS."""
    mode: int = 0
    """0 of a file, or port 0: it is off."""
    user: str = ""
    group: str = ""
    address: str = ""
    """Empty: any. Else one, or several with blanks between."""
    port: int = 0
    extra: tuple[str, ...] = ()
    """What else is set, as `haproxy = yes`."""

    @property
    def on(self) -> bool:
        return bool(self.port if self.sort == "inet_listener" else self.mode)


def listeners(root: Block) -> list[Listener]:
    """What `service director` opens, each once, its built-in `director-admin` included."""
    found = {
        ("unix_listener", "director-admin"): Block(
            kind="unix_listener", name="director-admin", settings={"mode": "0600"}
        )
    }
    for service in root.all("service", "director"):
        for block in service.blocks:
            if block.kind not in ("unix_listener", "fifo_listener", "inet_listener"):
                continue
            key = block.kind, block.name
            # login/* are off until somebody gives them a mode.
            built_in = {"mode": "0" if block.name.startswith("login/") else "0600"}
            before = found[key].settings if key in found else built_in
            found[key] = Block(kind=block.kind, name=block.name, settings=before | block.settings)
    return [_listener(block, root) for block in found.values()]


def _listener(block: Block, root: Block) -> Listener:
    settings = block.settings
    known = {"mode", "user", "group", "address", "port"}
    extra = tuple(
        f"{key} = {value}" for key, value in settings.items() if key not in known and value not in ("", "no")
    )
    return Listener(
        sort=block.kind,
        name=block.name,
        kind=_kind(block),
        mode=_number(settings.get("mode", "0"), 8),
        user=_account(settings.get("user", ""), root),
        group=_account(settings.get("group", ""), root),
        address=settings.get("address", ""),
        port=_number(settings.get("port", "0"), 10),
        extra=extra,
    )


def _kind(block: Block) -> str:
    # As the original: by what stands after the last hyphen; everything else by what the listener is.
    if block.kind == "fifo_listener":
        return "notify"
    word = block.name.rpartition("/")[2].rpartition("-")[2]
    return _BY_NAME.get(word, "ring" if block.kind == "inet_listener" else "login")


def _account(name: str, root: Block) -> str:
    defaults = {
        "default_internal_user": "dovecot",
        "default_internal_group": "dovecot",
        "default_login_user": "dovenull",
    }
    variable = name.removeprefix("$")
    return root.get(variable, default=defaults[variable]) if variable in defaults else name


def _number(text: str, base: int) -> int:
    """The number that a setting stands for; 0 where it is none."""
    digits = "[0-7]{1,9}" if base == 8 else "[0-9]{1,9}"
    return int(text, base) if re.fullmatch(digits, text) else 0
