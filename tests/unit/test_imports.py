"""Imports point one way, between packages and between the floors inside the large packages. Checked in the
syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BASE = {"types", "errors", "records", "version"}
MAY_IMPORT = {
    "core": BASE,
    # The content of a store, and when it is read and written. Pure: of the state layer only bucket numbers
    # and plain types (below).
    "stored": BASE | {"core", "state"},
    "wire": BASE | {"core"},
    "net": BASE | {"wire"},
    "service": BASE | {"core", "stored", "wire", "net", "state"},
    # Beside the service, not in it: it reads stores while no director runs, and needs no director's socket.
    "statetools": BASE | {"core", "stored", "state"},
    # Dovecot's configuration. It makes no connection, and depends on no running director.
    "dovecot": BASE,
    # Checks a machine from outside: the director may not be running.
    "doctor": BASE | {"dovecot", "service", "net", "wire"},
    "web": BASE | {"service"},
    "cli": BASE,
    "demo": BASE | {"cli"},
}
"""By package of `director`: the packages it may import besides itself, the standard library and third
parties."""

STORE_ROOMS = ("core", "stored", "service", "statetools", "state")
LATE = {
    # A command imports whole packages, inside its function; types alone cost nothing.
    ("cli/run.py", "service"),
    ("cli/run.py", "demo"),
    ("cli/config.py", "service"),
    ("cli/config.py", "dovecot"),
    ("cli/config.py", "state"),  # the names in Dovecot's configuration are looked up here
    ("cli/permission.py", "service"),
    ("cli/plan.py", "service"),
    ("cli/doctor.py", "service"),
    ("cli/doctor.py", "doctor"),
    # `state` and `migrate` open the store themselves: no director may be running, or able to.
    *((f"cli/{file}.py", room) for file in ("state", "stores", "migrate") for room in STORE_ROOMS),
}
ROOT_IMPORTS = {
    ("service/operatorendpoints.py", "director.web"),
    ("service/serve.py", "director.web"),
}
"""The only import against the order: the composition root builds the API too, through `run_api`."""
FLOORS = {
    "core": [
        {"placement"},
        {"protocol"},
        {"tables"},
        {"ring"},
        {"logins"},
        {"moves"},
    ],
    "service": [
        {
            "clock.py",
            "internalerrors.py",
            "log.py",
            "logwriter.py",
            "loopwatch.py",
            "mailbox.py",
            "metrics.py",
            "secret.py",
        },
        {"configuration"},
        {"resolution"},
        {"kicks"},
        {"lifecycle"},
        {"persistence"},
        {"heldlogins.py", "loginrelay.py", "pendingoperations.py", "ringsockets.py"},
        {"operations"},
        {"endpoints"},
    ],
}
"""By package: its packages and modules, lowest floor first. A floor imports only itself and lower floors. All
other modules of the package are at the top."""
PURE = {"core", "stored", "wire", "dovecot"}
NOT_PURE = {
    "asyncio",
    "socket",
    "time",
    "random",
    "os",
    "logging",
    "threading",
    "anyio",
    "subprocess",
    "secrets",
}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield every module a file imports, and whether only inside a function or for the type checker."""
    tree = ast.parse(file.read_text())
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            yield module, node in late


def files(*parts: str) -> list[Path]:
    return sorted(ROOT.joinpath(*parts).rglob("*.py"))


def room(module: str) -> str:
    """`director.core.placement.users` -> `core`; `state.base` -> `state`; others -> ``."""
    top, _, rest = module.partition(".")
    return "state" if top == "state" else rest.split(".")[0] if top == "director" else ""


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_the_floor_plan_allows(name: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files("director", name)
        for module, late in imports(file)
        if room(module) not in {"", name} | MAY_IMPORT[name]
        and not (late and (str(file.relative_to(ROOT / "director")), room(module)) in LATE)
        and (str(file.relative_to(ROOT / "director")), module) not in ROOT_IMPORTS
    ]
    assert wrong == []


def floor_of(room: str, inside: tuple[str, ...]) -> int:
    """Return the number of a floor. `inside`: the parts of a path below the package."""
    for number, names in enumerate(FLOORS[room]):
        if inside[0] in names or f"{inside[0]}.py" in names:
            return number
    return len(FLOORS[room])


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_a_floor_imports_only_itself_and_lower_floors(name: str) -> None:
    folder = ROOT / "director" / name
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files("director", name)
        for module, _ in imports(file)
        if module.startswith(f"director.{name}.")
        and floor_of(name, file.relative_to(folder).parts) < floor_of(name, tuple(module.split(".")[2:]))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_every_package_stands_on_a_floor_and_every_name_of_a_floor_exists(name: str) -> None:
    folder = ROOT / "director" / name
    named = set().union(*FLOORS[name])
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert packages <= named
    assert [name for name in named if not (folder / name).exists()] == []


STATE_TYPES = {
    # records that are read and written, and results of writing
    *("AuditEntry", "Bucket", "Document", "Lease", "Lost", "Space", "Swap", "Swapped"),
    *("EMPTY_VERSION", "SPACES", "SPLIT", "SPLIT_VERSION", "version_of"),
    # layouts
    *("KNOWN_SCHEMA", "SCHEMA", "SPLIT_SCHEMA"),
    # failures of a store
    *("SchemaTooNew", "StoreBusy", "StoreError", "StoreRefused", "StoreUnavailable"),
}
"""Plain types and constants of `state.base`. The protocol of a store is not among them."""


def test_the_stored_package_imports_only_plain_types_and_bucket_numbers_of_the_state_layer() -> None:
    imported = {
        module
        for file in files("director", "stored")
        for module, _ in imports(file)
        if module.startswith("state.") and not module.startswith("state.bucketnumbers.")
    }
    assert imported == {f"state.base.{name}" for name in STATE_TYPES}


def test_the_web_api_imports_only_the_operations_of_the_service() -> None:
    imported = {module for file in files("director", "web") for module, _ in imports(file)}
    assert {module for module in imported if room(module) == "service"} == {
        "director.service.operations.operations.Operations"
    }


def test_the_state_layer_imports_nothing_of_the_director() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for folder in ("state", "migrations")
        for file in files(folder)
        for module, _ in imports(file)
        if module.split(".")[0] == "director"
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_packages_use_no_clock_socket_file_or_random_number(name: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files("director", name)
        for module, _ in imports(file)
        if module.split(".")[0] in NOT_PURE and file.name != "hotpath.py"
    ]
    assert wrong == []


def test_there_are_files_to_check() -> None:
    assert len(files("director", "core")) > 10
