"""Each library has one purpose. Checked in the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.joinpath("director").rglob("*.py"), *ROOT.joinpath("state").rglob("*.py")])

ASYNCIO = {
    # transports, protocols, streams
    "BaseProtocol",
    "BaseTransport",
    "Protocol",
    "StreamReader",
    "StreamWriter",
    "Transport",
    "open_connection",
    "open_unix_connection",
    # the loop, for these and for callbacks: readers, timers, calls from other threads
    "AbstractEventLoop",
    "TimerHandle",
    "get_running_loop",
}
"""The names of asyncio in use. Tasks, deadlines, events and locks are anyio's."""
LOOP_TASKS = {"create_future", "create_task", "run_in_executor"}
"""Methods of the loop that are not used."""
EXCEPTIONS = {
    # One for each accepted connection. Measured with uvloop: 3 µs of CPU, 30 µs in a task group.
    ("net/accept.py", "Task"),
    ("net/accept.py", "create_task"),
    # uvicorn keeps its requests as tasks of asyncio.
    ("web/server.py", "gather"),
}

RESOLVERS = {
    "state/resolver.py",
    "cli/hosts.py",  # a command waits for its look-up: it has no loop
}
LOOK_UPS = {"getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn"}


def asyncio_names(file: Path) -> Iterator[str]:
    """Yield the names that a file takes from asyncio, and the methods of LOOP_TASKS that it calls on any
    object."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asyncio":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("asyncio."))
            yield from (alias.name for alias in node.names if alias.name == "asyncio" and alias.asname)
        elif isinstance(node, ast.Attribute) and (
            node.attr in LOOP_TASKS or (isinstance(node.value, ast.Name) and node.value.id == "asyncio")
        ):
            yield node.attr


def name_of(file: Path) -> str:
    """Return the name of a file in these tables: `net/accept.py`; `state/redis.py`."""
    return str(file.relative_to(ROOT)).removeprefix("director/")


def attributes(file: Path) -> Iterator[ast.Attribute]:
    return (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute))


def test_only_one_module_and_the_command_line_ask_the_system_resolver() -> None:
    asking = {name_of(file) for file in FILES for node in attributes(file) if node.attr in LOOK_UPS}
    assert asking == RESOLVERS


def test_tasks_and_deadlines_are_anyios_and_asyncio_is_for_transports_and_protocols() -> None:
    used = {(name_of(file), name) for file in FILES for name in asyncio_names(file)}
    assert {(file, name) for file, name in used if name not in ASYNCIO} == EXCEPTIONS
    assert {name for _, name in used} >= ASYNCIO
