"""`director demo`: a cluster on this machine whose directors all restart without losing an assignment."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from director.demo import packages
from director.demo.clients import Login, failures
from director.demo.cluster import Cluster
from director.demo.dovecot import Programs
from director.demo.ports import DemoError, addresses, free_ports
from director.demo.process import ServeProcess

USERS = [f"user{number:03}" for number in range(1, 301)]
DIRECTORS, BACKENDS = 3, 4
FIRST_PROXY, FIRST_BACKEND = "127.0.0.11", "127.0.1.1"
LIGHTER, LIGHTER_WEIGHT, DOWN = "127.0.1.2", 50, "127.0.1.3"
AGREE_TIMEOUT = 10.0
INTERRUPTED = 130
SHOWN_USERS = 20
SHOWN_DIFFERENCES = 20


class Memory(NamedTuple):
    """The hosts and assignments that a director reports."""

    hosts: Mapping[str, str]
    """Weight, state and tag by address."""
    users: Mapping[str, str]
    """Backend by user key. Keys are compared because names are for display only."""


def run(once: bool) -> int:
    """Run the demo.

    Args:
        once: end after the check, instead of running until Ctrl-C.

    Returns:
        The exit code: 0 if all assignments are kept.
    """
    console = Console(highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _run(console, once=once)
    except (DemoError, packages.Missing) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"demo: {error}", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted; everything is stopped and removed")
        return INTERRUPTED


def _run(console: Console, *, once: bool) -> int:
    packages.install("dovecot", report=lambda text: console.print(f"[bold]·[/] {text}"))
    console.print(f"[bold]·[/] Dovecot {Programs().release} is installed")
    proxies, backends = addresses(FIRST_PROXY, DIRECTORS), addresses(FIRST_BACKEND, BACKENDS)
    ports = free_ports([*proxies, *backends], proxies)
    cluster = Cluster(
        directors=DIRECTORS,
        backends=BACKENDS,
        ports=ports,
        first_proxy=FIRST_PROXY,
        first_backend=FIRST_BACKEND,
    )
    try:
        cluster.start(report=lambda text: console.print(f"[bold]·[/] {text}"))
        differences = _show(console, cluster)
        if differences:
            _print_differences(console, differences)
            if once:
                return 1
        else:
            console.print("\n[bold green]All users kept their hosts.[/]")
        if not once:
            _print_next_steps(console, cluster)
            _until_interrupted()
            console.print("\nstopping everything")
        return 1 if differences else 0
    finally:
        cluster.close()


def _show(console: Console, cluster: Cluster) -> list[str]:
    """Log users in, restart all directors, log the users in again.

    Returns:
        The differences between before and after; empty: there are none.
    """
    first = cluster.directors[0]
    before_logins = _log_all_users_in(console, cluster)
    console.print(_user_table(cluster, before_logins))
    _command(console, first, "update", LIGHTER, str(LIGHTER_WEIGHT), "--reason", "demo: half the weight")
    _command(console, first, "down", DOWN, "--reason", "demo: taken down")
    before = _memories(cluster)
    if not _complete(before):
        raise DemoError("the directors have different assignments:\n" + "\n".join(_disagreement(before)))
    console.print(_host_table(cluster, before_logins))
    console.print(f"{DOWN} is down: it gets no new users; users assigned to it stay.\n")

    console.print(f"[bold]·[/] restarting all {len(cluster.directors)} directors at once")
    began = time.monotonic()
    cluster.stop_directors()
    cluster.start_directors()
    console.print(
        f"  all of them answer again, {time.monotonic() - began:.1f} s after they were told to stop"
    )
    after = _memories(cluster)
    after_logins = _log_all_users_in(console, cluster)
    console.print(_host_table(cluster, after_logins))
    return _differences(before, after) + _moves(before_logins, after_logins)


def _log_all_users_in(console: Console, cluster: Cluster) -> list[Login]:
    """Log all users in over IMAP, in turn over the proxies.

    Raises:
        DemoError: a login failed.
    """
    text = f"[bold]·[/] logging {len(USERS)} users in over IMAP, over {len(cluster.proxies)} proxies"
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=len(USERS))
        logins = cluster.log_in(USERS, done=lambda login: progress.advance(task))
    console.print(f"{text}: {time.monotonic() - began:.1f} s")
    if failed := failures(logins):
        reasons = Counter(f"{login.error} (at {login.via})" for login in failed)
        raise DemoError(f"{len(failed)} of {len(logins)} logins failed: {reasons.most_common(3)}")
    return logins


def _memories(cluster: Cluster) -> dict[str, Memory]:
    """Hosts and assignments by director. Waits up to 10 s until all directors have the same."""
    deadline = time.monotonic() + AGREE_TIMEOUT
    while True:
        memories = {director.name: _memory(director) for director in cluster.directors}
        if _complete(memories) or time.monotonic() > deadline:
            return memories
        time.sleep(0.1)


def _complete(memories: Mapping[str, Memory]) -> bool:
    first, *others = memories.values()
    return len(first.users) == len(USERS) and all(memory == first for memory in others)


def _disagreement(memories: Mapping[str, Memory]) -> list[str]:
    known = [f"{director} has {len(memory.users)} assignments" for director, memory in memories.items()]
    first = next(iter(memories.values()))
    return known + _differences({director: first for director in memories}, memories)[:SHOWN_DIFFERENCES]


def _memory(director: ServeProcess) -> Memory:
    users = {f"user {user['key']}": user["host"] for user in director.ask("map")}
    hosts = {
        host["address"]: f"weight {host['weight']}, {'up' if host['up'] else 'down'}, tag {host['tag']!r}"
        for host in director.ask("status")["hosts"]
    }
    return Memory(hosts, users)


def _differences(before: Mapping[str, Memory], after: Mapping[str, Memory]) -> list[str]:
    """The differences, first in hosts of all directors, then in their users."""
    pairs = [zip(before[director], after[director], strict=True) for director in before]
    return [
        f"{director}: {thing} was {was.get(thing, 'unknown')}, is {now.get(thing, 'unknown')}"
        for of_one_kind in zip(*pairs, strict=True)
        for director, (was, now) in zip(before, of_one_kind, strict=True)
        for thing in sorted(was.keys() | now.keys())
        if was.get(thing) != now.get(thing)
    ]


def _moves(before: list[Login], after: list[Login]) -> list[str]:
    return [
        f"{now.user} was served by {was.backend}, is served by {now.backend}"
        for was, now in zip(before, after, strict=True)
        if was.backend != now.backend
    ]


def _command(console: Console, director: ServeProcess, *arguments: str) -> None:
    """Run a changing command as an operator would, and print it with its output.

    Raises:
        DemoError: the command failed.
    """
    line = " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)
    console.print(f"[bold]$ director {line}[/]")
    result = director.command(*arguments)
    console.print((result.stdout + result.stderr).rstrip(), markup=False)
    if result.returncode != 0:
        raise DemoError(f"director {line} ended with exit code {result.returncode}")


def _user_table(cluster: Cluster, logins: list[Login]) -> Table:
    table = Table(title=f"Users (the first {SHOWN_USERS} of {len(logins)})", title_justify="left")
    columns = 2
    for _ in range(columns):
        table.add_column("user")
        table.add_column("over proxy")
        table.add_column("backend")
    first = logins[:SHOWN_USERS]
    shown = [(login.user, login.via, cluster.backend(login.backend or "").address) for login in first]
    rows = SHOWN_USERS // columns
    for number in range(rows):
        table.add_row(*shown[number], *shown[number + rows])
    return table


def _host_table(cluster: Cluster, logins: list[Login]) -> Table:
    hosts: list[dict[str, Any]] = cluster.directors[0].ask("status")["hosts"]
    served = Counter(cluster.backend(login.backend or "").address for login in logins)
    table = Table(title="Hosts", title_justify="left")
    table.add_column("backend")
    table.add_column("weight", justify="right")
    table.add_column("state")
    table.add_column("users", justify="right")
    table.add_column("served by it", justify="right")
    for host in hosts:
        address = host["address"]
        state = "up" if host["up"] else "[red]down[/]"
        table.add_row(address, str(host["weight"]), state, str(host["users"]), str(served[address]))
    return table


def _print_differences(console: Console, differences: list[str]) -> None:
    console.print(f"\n[bold red]{len(differences)} differences after the restart:[/]")
    for difference in differences[:SHOWN_DIFFERENCES]:
        console.print(f"  {difference}", markup=False)
    if len(differences) > SHOWN_DIFFERENCES:
        console.print(f"  … and {len(differences) - SHOWN_DIFFERENCES} more")


def _print_next_steps(console: Console, cluster: Cluster) -> None:
    first, proxy = cluster.directors[0], cluster.proxies[0]
    program = Path(sys.executable).with_name("director")
    director = str(program) if program.exists() else f"{sys.executable} -m director"
    lines = [
        "",
        "Try these commands in another terminal:",
        f"  export DIRECTOR_CONFIG={first.config}",
        *(
            f"  {director} {words}"
            for words in ("status", "map", "ring status", f"status {USERS[0]}", f"up {DOWN}")
        ),
        f"  doveadm director status -a {proxy.run}/director-admin",
        "",
        "Log in as any user, with any password:",
        f"  IMAP {cluster.ports.imap}, POP3 {cluster.ports.pop3}, LMTP {cluster.ports.lmtp}"
        f" on {', '.join(cluster.proxy_addresses)}",
        f"  doveadm -c {proxy.config} mailbox list -u {USERS[0]}",
        "",
        f"Logs: {cluster.folder}/*/*.log",
        "Ctrl-C stops everything and removes it.",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _until_interrupted() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
