"""Values of Dovecot 2.3's settings: durations, numbers, modes, lists of addresses.

Values that Dovecot refuses are refused here too.
"""

from __future__ import annotations

import re

_UNITS = (
    (("secs", "seconds"), "s", 1),
    (("mins", "minutes"), "min", 1),
    (("msecs", "mseconds", "millisecs", "milliseconds"), "ms", 1),
    (("hours",), "h", 1),
    (("days",), "d", 1),
    (("weeks",), "d", 7),
)
"""Names of a unit, which may be shortened, in Dovecot's order; the unit of director.toml; the factor."""
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
EVERY = ("0.0.0.0", "::")
"""All addresses of a machine, for each address family."""


class RefusedValue(ValueError):
    """Dovecot refuses to start with this value; the text says why."""


def seconds(text: str) -> int:
    """A duration. Raises RefusedValue."""
    amount, unit = _duration(text)
    return amount * _SECONDS[unit]


def duration_text(text: str) -> str:
    """A duration as director.toml has it: `15 min`. Raises RefusedValue."""
    amount, unit = _duration(text)
    return f"{amount} {unit}"


def _duration(text: str) -> tuple[int, str]:
    """Amount and unit, one of s, min, h, d."""
    match = re.fullmatch(r"\s*([0-9]{1,15})\s*([A-Za-z]*)\s*", text)
    if match is None:
        raise RefusedValue("it is not a whole number with a unit, such as 15 mins")
    amount, word = int(match[1]), match[2].lower()
    if not word and amount:
        raise RefusedValue("its unit is missing, such as s or mins")
    found = next((unit for unit in _UNITS if any(name.startswith(word) for name in unit[0])), None)
    if found is None:
        raise RefusedValue(f"{match[2]} is not a unit; there are secs, mins, hours, days, weeks")
    _, unit, times = found
    amount *= times
    if unit == "ms":
        amount, rest = divmod(amount, 1000)
        unit = "s"
        if rest:
            raise RefusedValue("it is not a whole number of seconds")
    if amount * _SECONDS[unit] >= 1 << 32:
        raise RefusedValue("it is too long")
    return amount, unit


def number(text: str) -> int:
    """A whole number. Raises RefusedValue."""
    if not re.fullmatch("[0-9]{1,20}", text) or int(text) >= 1 << 32:
        raise RefusedValue("it is not a number from 0 to 4294967295")
    return int(text)


def mode(text: str) -> int:
    """The mode of a file: octal if it begins with 0, else decimal, as in Dovecot. Raises RefusedValue."""
    if text.startswith("0"):
        if not re.fullmatch("[0-7]{1,11}", text):
            raise RefusedValue("it begins with 0 and is not octal")
        return int(text, 8) & 0o7777
    return number(text) & 0o7777


def port(text: str) -> int:
    """A TCP port, 0 for none. Raises RefusedValue."""
    if not re.fullmatch("[0-9]{1,20}", text) or int(text) > 65535:
        raise RefusedValue("it is not a port")
    return int(text)


def addresses(text: str) -> tuple[str, ...]:
    """The addresses of a list such as `10.1.0.1, [::1]`, without brackets; any address is 0.0.0.0 or ::."""
    words = [without_brackets(word) for word in re.split(r"[,\s]+", text) if word]
    return tuple(dict.fromkeys("0.0.0.0" if word == "*" else word for word in words))


def without_brackets(address: str) -> str:
    """`2001:db8::1` of `[2001:db8::1]`; other texts as they are."""
    match = re.fullmatch(r"\[([^\[\]]*:[^\[\]]*)\]", address)
    return match[1] if match else address
