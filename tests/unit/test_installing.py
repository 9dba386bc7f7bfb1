"""The steps by which README tells operators to install a director, and their results."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from director.demo.packages import GROUPS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)(?: ; (.*))?$", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """Return the version of each package that a file pins, for this release of Python."""
    return {
        plain(package): version
        for package, version, marker in PINNED.findall((ROOT / name).read_text())
        if not marker or Marker(marker).evaluate()
    }


def plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def block() -> list[list[str]]:
    """Return the commands under "Install it for real", as a shell takes them."""
    page = (ROOT / "README.md").read_text()
    part = page.partition("## Install it for real\n")[2].partition("\n## ")[0]
    lines = "\n".join(line[4:] for line in part.splitlines() if line.startswith("    "))
    commands = lines.replace("\\\n", " ").replace(" && ", "\n").splitlines()
    return [shlex.split(command, comments=True) for command in commands]


def needed() -> set[str]:
    """Return all packages that a director needs, also indirectly."""
    todo, found = [Requirement(package_).name for package_ in PROJECT["project"]["dependencies"]], set()
    while todo:
        name = plain(todo.pop())
        if name not in found:
            found.add(name)
            requirement = map(Requirement, importlib.metadata.requires(name) or [])
            todo += [
                package_.name
                for package_ in requirement
                if package_.marker is None or package_.marker.evaluate({"extra": ""})
            ]
    return found


def test_a_former_build_is_not_installed_again(tmp_path: Path) -> None:
    """A former build contains a module that the sources do not have any more."""
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__", "*.so", "*.c")
    shutil.copytree(ROOT, source, ignore=left_out)
    for folder in ("lib", f"lib.linux-x86_64-cpython-{sys.version_info[0]}{sys.version_info[1]}"):
        stale = source / "build" / folder / "director/gone_since.py"
        stale.parent.mkdir(parents=True)
        stale.write_text("raise SystemExit('stale')\n")
    wheels = source / "build/bdist.linux-x86_64/wheel/director/gone_too.py"
    wheels.parent.mkdir(parents=True)
    wheels.write_text("")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."],
        cwd=source,
        env=os.environ | {"CC": "false"},  # without the compiled parts: they take a minute
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (wheel,) = (source / "out").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "director/service/app.py" in names
    assert [name for name in names if "gone" in name] == []


def test_the_versions_to_install_are_the_tested_versions() -> None:
    tested = pins("requirements-dev.lock")
    installed = pins("requirements.lock")
    assert set(installed) == needed() | {
        plain(Requirement(package_).name) for package_ in PROJECT["build-system"]["requires"]
    }
    assert {name: tested[name] for name in installed} == installed


def test_a_library_that_only_the_python_of_debian_12_needs_is_pinned_too() -> None:
    """redis needs async-timeout before Python 3.11.3; the tests run on later ones, too."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        markers = {package: marker for package, _, marker in PINNED.findall((ROOT / name).read_text())}
        assert Marker(markers["async-timeout"]).evaluate({"python_full_version": "3.11.2"})
        assert not Marker(markers["async-timeout"]).evaluate({"python_full_version": "3.11.3"})


def test_readme_installs_pinned_versions_and_builds_with_them() -> None:
    pip = [command[1:] for command in block() if command[0] == "/opt/director/bin/pip"]
    assert pip == [
        ["install", "--requirement", "requirements.lock"],
        ["install", "--no-deps", "--no-build-isolation", "."],
    ]


def test_readme_and_make_name_git_before_they_need_it() -> None:
    commands = block()
    # a fresh machine may have no list of packages, or an old one
    assert commands[0] == ["apt-get", "update"]
    assert commands[1][:3] == ["apt-get", "install", "-y"]
    assert {"git", "python3-venv", "python3-dev", "gcc", "openssl"} == set(commands[1][3:])
    assert commands[2][:2] == ["git", "clone"]
    assert list(GROUPS["git"]) == ["git"]
    made = subprocess.run(
        ["make", "-n", "-W", "setup.py", "install"], cwd=ROOT, capture_output=True, text=True
    )
    assert "packages.py venv git compiler" in made.stdout


def test_readme_continues_after_the_start_of_the_director() -> None:
    """After `serve` in the foreground no further command would run."""
    commands = block()
    assert [command for command in commands if "serve" in command] == []
    start = next(
        index for index, command in enumerate(commands) if command[:3] == ["systemctl", "enable", "--now"]
    )
    assert commands[-1] == ["/opt/director/bin/director", "doctor"]
    assert start < len(commands) - 1
    units = {
        path.name for path in (ROOT / "deploy/systemd").glob("*.s*") if path.suffix in (".service", ".socket")
    }
    assert set(commands[start][3:]) == units


@pytest.mark.parametrize("command", [c for c in block() if c[0] == "cp"], ids=" ".join)
def test_every_file_that_readme_copies_exists(command: list[str]) -> None:
    for source in command[1:-1]:
        assert list(ROOT.glob(source)) != []


def test_the_secret_that_readme_makes_belongs_to_the_user_of_the_unit() -> None:
    unit = (ROOT / "deploy/systemd/director.service").read_text()
    (user,) = re.findall(r"^User=(.*)$", unit, flags=re.MULTILINE)
    assert ["chown", f"{user}:", "/etc/director/ring.secret"] in block()


def test_pages_that_install_the_unit_check_as_its_user() -> None:
    """As root the check passes with a secret that the director cannot read."""
    unit = (ROOT / "deploy/systemd/director.service").read_text()
    (user,) = re.findall(r"^User=(.*)$", unit, flags=re.MULTILINE)
    for page in ("README.md", "docs/migrating.md", "docs/first-login-2.4.md"):
        checks = re.findall(r"^ *\S+/director config check.*$", (ROOT / page).read_text(), flags=re.MULTILINE)
        assert checks
        assert [check for check in checks if not check.endswith(f" --user {user}")] == []
