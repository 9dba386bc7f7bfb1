"""Redis in the lab is set up as `docs/state-redis.md` tells operators to."""

from __future__ import annotations

import re
from pathlib import Path

from tests import rights

ROOT = Path(__file__).parents[2]
REDIS = ROOT / "deploy/lab/redis"
GUIDE = (ROOT / "docs/state-redis.md").read_text("utf-8")


def script(name: str) -> str:
    return (REDIS / name).read_text("utf-8")


def user(text: str) -> str:
    """Return the rights that a configuration gives the user `director`, without the parts in variables."""
    (found,) = re.findall(r"^user director on >\$\(secret \w+\) (.*)$", text, re.MULTILINE)
    return str(found).removesuffix(" $1")


def settings(text: str) -> dict[str, str]:
    return dict(re.findall(r"^ *([a-z-]+) (\S+)$", text, re.MULTILINE))


def test_the_director_has_the_documented_rights_on_all_kinds_of_servers_and_no_other() -> None:
    (more,) = re.findall(r"users '(.*)'", script("node"))
    assert user(script("lib.sh")) == rights.SERVER
    assert f"{rights.SERVER} {more}" == rights.NODE
    assert "rights=+role" in script("server")
    assert f"{rights.SERVER} +role" == rights.BEHIND_SENTINEL
    assert user(script("sentinel")) == rights.SENTINEL


def test_the_default_user_is_off_everywhere_and_can_read_the_append_only_file() -> None:
    for name in ("lib.sh", "sentinel"):
        assert f"user default {rights.DEFAULT}\n" in script(name)


def test_the_settings_are_those_for_production_except_for_the_single_replica() -> None:
    documented = settings(GUIDE.partition("## Settings for production")[2].partition("- **No eviction")[0])
    assert documented["min-replicas-to-write"] == "1"
    assert (documented | {"min-replicas-to-write": "0"}).items() <= settings(script("redis.conf")).items()


def test_passwords_are_neither_in_files_nor_in_arguments_of_a_command() -> None:
    for path in REDIS.iterdir():
        text = path.read_text("utf-8")
        assert not re.search(r"redis-cli[^\n]*(?: -a | --pass )", text), path.name
        assert not re.search(r"(?:pass|masterauth)[ =](?!\$\(secret |\S+ \$\(secret )\S", text), path.name
