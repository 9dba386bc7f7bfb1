"""The entries of `ring.servers` and `backends.mail_servers`: text -> addresses.

A reader of one entry raises ValueError with what is expected. A reader of a list reports each bad entry by
its number and continues, so that all bad entries are reported together.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from director.core.placement.addresses import canonical, host_id
from director.core.protocol.order import join_member
from director.core.protocol.texts import wrong_text
from director.core.tables.hosts import BackendSetting
from director.types import Address, HostId, MemberId
from state.resolver import Resolve

RING_PORT, ADMIN_PORT, HTTP_PORT, SOCKETMAP_PORT = 9090, 9091, 9092, 9093

Report = Callable[[int, str], None]
"""Called with the number of a bad entry and what is expected."""


class Unresolved(ValueError):
    """A name has no address now. The entry may be right, and the name may get an address later."""


_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?P<last>{_LABEL})\.?")
_TAG = re.compile(r"[^\s@\x00-\x1f\x7f]+")


class Endpoint(NamedTuple):
    """An address and a port. Its text is the `MemberId` of a director."""

    address: Address
    port: int

    def __str__(self) -> str:
        return self.member

    @property
    def member(self) -> MemberId:
        return join_member(self.address, self.port)


def is_loopback(endpoint: Endpoint) -> bool:
    return ipaddress.ip_address(endpoint.address).is_loopback


def is_local(address: Address) -> bool:
    """Return whether `address` belongs to this machine, that is, whether a socket can be bound to it.

    Also False while the process can get no socket.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def read_endpoint(text: str, port: int, resolve: Resolve) -> Endpoint:
    """Return the endpoint that `text` names.

    Args:
        text: `address`, `name`, `address:port`, `name:port`, `[v6]` or `[v6]:port`. A name must have exactly
            one address.
        port: the port if `text` has none.

    Raises ValueError.
    """
    host, written_port = _split_port(text)
    if written_port is not None:
        if not re.fullmatch("[0-9]{1,5}", written_port) or not 1 <= int(written_port) <= 65535:
            raise ValueError(f"the port must be 1 to 65535, such as {host}:{port}")
        port = int(written_port)
    if (address := _address(host)) is not None:
        return Endpoint(address, port)
    found = _resolved(host, resolve)
    if len(found) > 1:
        raise ValueError(f"{host} has {len(found)} addresses; write the address to use: {', '.join(found)}")
    return Endpoint(found[0], port)


def read_director(entry: str, resolve: Resolve) -> Endpoint:
    """Return the director that an entry of `ring.servers` names. Raises ValueError."""
    endpoint = read_endpoint(entry, RING_PORT, resolve)
    one_machine(endpoint.address)
    return endpoint


def is_named(entry: str) -> bool:
    """Return whether a valid entry is a name, whose address may change later."""
    return _address(_split_port(entry)[0]) is None


def director_name(entry: str, port: int = RING_PORT) -> tuple[str, int] | None:
    """Return name and port of a valid entry of `ring.servers`; None if it is an address."""
    if not is_named(entry):
        return None
    host, written = _split_port(entry)
    return host.rstrip(".").lower(), int(written) if written else port


def backend_name(entry: str, weight: int) -> BackendSetting | None:
    """Return the setting of an entry of `mail_servers` that is a name, without address; else None."""
    host, _, tag = entry.partition("@")
    first = host.partition("-")[0]
    if ":" in host or _address(host) is not None or (first != host and _address(first) is not None):
        return None
    return BackendSetting(Address(""), host, tag, weight)


def read_directors(
    entries: Iterable[str], resolve: Resolve, report: Report, unresolved: Report
) -> dict[Endpoint, str]:
    """Return the directors of the ring with their entries: one address each, one IP family, no duplicates.

    Bad entries are reported to `report` and left out. Names that have no address now are reported to
    `unresolved` and left out.
    """
    written: dict[Endpoint, str] = {}
    for index, entry in enumerate(entries):
        try:
            endpoint = read_director(entry, resolve)
        except Unresolved as exc:
            unresolved(index, str(exc))
            continue
        except ValueError as exc:
            report(index, str(exc))
            continue
        if endpoint in written:
            report(index, f'the same director as "{written[endpoint]}"; leave one of them out')
            continue
        first = next(iter(written), endpoint)
        if _family(first.address) != _family(endpoint.address):
            report(
                index,
                f"this is {_family(endpoint.address)}, but {first.address} is {_family(first.address)};"
                " all directors of a ring use one address family",
            )
            continue
        written[endpoint] = entry
    return written


def own_endpoint(
    servers: Sequence[Endpoint], listen: Endpoint | None, local: Callable[[Address], bool]
) -> Endpoint:
    """Return this director among `servers`: `listen`, or the only local address. Raises ValueError."""
    if listen is not None:
        if listen not in servers:
            raise ValueError(f"{listen} is not in ring.servers; list it there, or correct ring.listen")
        return listen
    local_servers = [server for server in servers if local(server.address)]
    if len(local_servers) == 1:
        return local_servers[0]
    if local_servers:
        raise ValueError(
            f"{' and '.join(map(str, local_servers))} are addresses of this machine; write the address "
            "of this director into ring.listen"
        )
    raise ValueError("none of ring.servers is an address of this machine; list this director there")


def read_backends(
    entries: Iterable[str], weight: int, resolve: Resolve, report: Report, unresolved: Report
) -> tuple[BackendSetting, ...]:
    """Return the backends of `entries`, in their order.

    Bad entries are reported to `report` and left out. Names that have no address now are reported to
    `unresolved` and left out. An address that comes from two entries is reported, too: Dovecot 2.3's director
    made two hosts of it.
    """
    settings: dict[Address, BackendSetting] = {}
    written: dict[Address, str] = {}
    ids: dict[HostId, Address] = {}
    for index, entry in enumerate(entries):
        try:
            found = _read_backend(entry, weight, resolve)
        except Unresolved as exc:
            unresolved(index, str(exc))
            continue
        except ValueError as exc:
            report(index, str(exc))
            continue
        for setting in found:
            address = setting.address
            known = ids.setdefault(host_id(address), address)
            if address in settings:
                report(index, f'{address} also comes from "{written[address]}"; leave one of them out')
                break
            if known != address:
                report(
                    index, f"{address} and {known} cannot be told apart in user records; renumber one of them"
                )
                break
            settings[address], written[address] = setting, entry
    return tuple(settings.values())


def _read_backend(entry: str, weight: int, resolve: Resolve) -> list[BackendSetting]:
    host, at, tag = entry.partition("@")
    if at and not _TAG.fullmatch(tag):
        raise ValueError("the tag after @ is missing, or has spaces or another @ in it")
    problem = wrong_text("tag", tag)
    if problem is not None:
        raise ValueError(problem)
    if re.fullmatch(r"\[.*\]|.*\]:[0-9]*|[^:]*:[0-9]*", host):
        raise ValueError(
            "a backend host is written without port and brackets: write its address or name alone"
        )
    first, hyphen, last = host.partition("-")
    if hyphen and (start := _address(first)) is not None:
        return [BackendSetting(address, "", tag, weight) for address in _range(start, last)]
    if (address := _address(host)) is not None:
        return [BackendSetting(one_machine(address), "", tag, weight)]
    return [BackendSetting(one_machine(address), host, tag, weight) for address in _resolved(host, resolve)]


def _range(start: Address, last: str) -> list[Address]:
    end = _address(last)
    if end is None:
        raise ValueError(f'"{last}" after the hyphen is not an address; write a range as {start}-LAST')
    if _family(start) != _family(end):
        raise ValueError(f"both ends of a range must have the same address family: {start} and {end} differ")
    low, high = (int(ipaddress.ip_address(one_machine(address))) for address in (start, end))
    if low > high:
        raise ValueError(f"the range is reversed; write {end}-{start}")
    bits = 16 if ":" in start else 8
    if low >> bits != high >> bits:
        part = "16 bits of an IPv6" if bits == 16 else "number of an IPv4"
        raise ValueError(
            f"the range is too large: only the last {part} address may differ; write several ranges"
        )
    kind = type(ipaddress.ip_address(start))
    return [canonical(str(kind(number))) for number in range(low, high + 1)]


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        match = re.fullmatch(r"\[([^\[\]]*:[^\[\]]*)\](?::(.*))?", text)
        if match is None:
            raise ValueError("brackets are for an IPv6 address: [2001:db8::1] or [2001:db8::1]:9090")
        return match[1], match[2]
    if text.count(":") != 1:
        return text, None
    host, _, port = text.partition(":")
    return host, port


def _address(text: str) -> Address | None:
    """Return the canonical address; None if `text` is no address. Raises ValueError for a bad address."""
    if ":" not in text and not re.fullmatch(r"[0-9.]*[0-9]", text):
        return None
    if "%" in text:
        raise ValueError(f"{text}: an address with a zone cannot be used")
    try:
        return canonical(text)
    except ValueError:
        raise ValueError(f"{text} is not an address (IPv4 as 10.0.0.1, IPv6 as 2001:db8::1)") from None


def _resolved(name: str, resolve: Resolve) -> list[Address]:
    match = _NAME.fullmatch(name)
    if match is None or len(name) > 253:
        raise ValueError("expected an address or a name")
    if match["last"].isdigit():
        # The resolver would read 10.1 as 10.0.0.1.
        raise ValueError(f"{name} is not an address (IPv4 as 10.0.0.1, IPv6 as 2001:db8::1) and not a name")
    try:
        found = [canonical(address) for address in resolve(name)]
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise Unresolved(f"{name} cannot be resolved ({reason})") from exc
    if not found:
        raise Unresolved(f"{name} has no address")
    return found


def one_machine(address: Address) -> Address:
    """Return the address if it can belong to one machine. Raises ValueError for any other address."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified or ip.is_multicast:
        raise ValueError(f"{address} is not the address of one machine")
    return address


def _family(address: Address) -> str:
    return "IPv6" if ":" in address else "IPv4"
