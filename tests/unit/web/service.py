"""A director of real parts, with a few hosts and users, for tests of the API and of the command line."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal

from director.core.placement.names import entry
from director.core.placement.users import PINNED
from director.core.settings import Settings
from director.records import HostInfo, UserInfo, UserStatus
from director.service.operations.operations import Operations
from director.types import Address, MemberId
from tests import waiting
from tests.faulty import Fault, FaultyStore
from tests.unit.service.parts import Node, key_of, running

ME = MemberId("127.0.0.11:9090")
ONE, TWO, GOLD, FOUR = (Address(f"127.0.1.{number}") for number in (1, 2, 3, 4))
SEEN, EXPIRE = 1_700_000_000, 2_300_000_000
EXPIRES = "2096-10-02 07:06:40"
"""The time when assignments expire that were not renewed since SEEN."""
DOWN_SINCE = "2023-11-14 22:13:20"
"""The time since when the host TWO is down: SEEN, too."""


def small_node() -> Node:
    """Return a node. dave and zoe are on ONE, bob is on TWO, which is down.

    The hash selects FOUR for dave and zoe, ONE for bob. The name of zoe is not known. GOLD is in another
    pool. Each user has two sessions.
    """
    node = Node(
        me=ME,
        hosts=[
            HostInfo(address=ONE, weight=100, up=True),
            HostInfo(address=TWO, weight=50, up=False, changed=SEEN),
            HostInfo(address=GOLD, weight=100, up=True, tag="gold"),
            HostInfo(address=FOUR, weight=100, up=True),
        ],
        expire=EXPIRE,
        settings=Settings(kick_delay=0.0, remember_names=True),
        between=lambda real: FaultyStore(real, lambda call: node.store_fault),
        proxied=2 * ["dave", "zoe", "bob"],
    )
    for name, host in (("dave", ONE), ("bob", TWO), ("zoe", ONE)):
        assign(node, name, host, named=name != "zoe")
    return node


def assign(node: Node, name: str, host: str, *, named: bool = True, pinned: bool = False) -> None:
    node.put(name, host, decided=SEEN, seen=SEEN, flags=PINNED if pinned else 0)
    if named:
        node.director.names.add(entry(key_of(name), name.encode()))


class Service:
    """A service with a new node for each test.

    `operations`, which servers are started with, always belong to the node.
    """

    def __init__(self, portal: BlockingPortal) -> None:
        self.portal = portal
        self.operations: Operations = object.__new__(Operations)
        self._stop = anyio.Event()
        self.start_over()

    def start_over(self) -> None:
        self.close()
        self.queried: list[tuple[object, ...]] = []
        self._running, self.node = self.portal.start_task(self._run)
        self.operations.__dict__.update(self.node.operations.__dict__)

    def close(self) -> None:
        if hasattr(self, "_running"):
            self.portal.call(self._stop.set)
            self._running.result()

    async def _run(self, *, task_status: TaskStatus[Node]) -> None:
        self._stop = anyio.Event()
        async with running(small_node()) as node:
            await waiting.until(lambda: node.persistence.loaded)
            task_status.started(node)
            await self._stop.wait()
            node.store_fault = Fault.NONE

    def call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """Call a function in the loop of the director, and await the result of a coroutine."""

        async def called() -> Any:
            result = function(*arguments, **options)
            return await result if inspect.isawaitable(result) else result

        return self.portal.call(called)

    # ---- what it is like

    @property
    def hosts(self) -> dict[str, HostInfo]:
        return {host.address: host for host in self.call(self.node.operations.queries.hosts)}

    @property
    def users(self) -> list[UserInfo]:
        async def listed() -> list[UserInfo]:
            return [user async for batch in self.node.operations.queries.users() for user in batch]

        return self.call(listed)

    def user_status(self, name: str) -> UserStatus:
        return self.call(self.node.operations.queries.user_status, name)

    def host_of(self, name: str) -> str | None:
        return self.user_status(name).current

    @property
    def asked(self) -> list[Any]:
        """The commands that have reached the core, as events."""
        return self.node.faults.asked

    @property
    def reasons(self) -> list[str]:
        """The reasons of operators in the audit."""
        return [entry.reason for entry in self.node.audited]

    # ---- what is made of it

    def assign(self, name: str, host: str = ONE, **options: bool) -> None:
        self.call(assign, self.node, name, host, **options)

    def hold_sessions(self, until: str = "") -> None:
        """Leave kicks unanswered until the jobs get this call, `info` or `interrupt`."""
        jobs, real = self.node.operations.jobs, getattr(self.node.operations.jobs, until, None)
        self.node.sessions.ends = False

        def asked(id: str) -> Any:
            asyncio.get_running_loop().call_soon(self.node.sessions.end_all)
            return real(id)

        if real is not None:
            setattr(jobs, until, asked)

    def end_sessions(self) -> None:
        """Answer the kicks that wait, and all later ones at once."""
        self.call(self.node.sessions.end_all)

    def forget_all(self) -> None:
        """Remove all users."""
        self.call(self.node.operations.users.forget, None, reason="")
        self.asked.clear()
        self.node.audited.clear()

    def alter(self, query: str, **fields: object) -> None:
        """Change fields in the answer of this query, which a test cannot change otherwise.

        Its arguments are in `queried`.
        """
        self._alter(self.node.operations.queries, query, fields)

    def alter_store(self, **fields: object) -> None:
        """Change fields in the description of the store."""
        self._alter(self.node.persistence, "info", fields)

    def alter_host(self, address: str, **fields: object) -> None:
        """Change fields of a host wherever it is listed. A function gives another value each time."""
        infos = self.node.operations.queries._infos
        real = infos._info

        def altered(row: Any, *counts: Any) -> HostInfo:
            info = real(row, *counts)
            if row.address != address:
                return info
            found = {name: value() if callable(value) else value for name, value in fields.items()}
            return msgspec.structs.replace(info, **found)

        infos._info = altered

    def _alter(self, owner: Any, name: str, fields: dict[str, object]) -> None:
        real = getattr(owner, name)

        def altered(*asked: object) -> Any:
            self.queried.append(asked)
            return msgspec.structs.replace(real(*asked), **fields)

        setattr(owner, name, altered)


@contextmanager
def served() -> Iterator[Service]:
    """Run a service in its own loop."""
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        service = Service(portal)
        try:
            yield service
        finally:
            service.close()
