"""Directors whose configurations differ say so to each other, and to operators."""

from __future__ import annotations

from tests.e2e.conftest import new_folder
from tests.e2e.processes import DirectorProcess, Directors, until


def alarms(director: DirectorProcess) -> set[tuple[str, str]]:
    return {(alarm["kind"], alarm["about"]) for alarm in director.get("/v1/status")["alarms"]}


def test_directors_with_different_backends_or_expire_are_named_until_they_have_the_same() -> None:
    each = [{}, {"backends": ["127.0.3.1-127.0.3.3"]}, {"settings": {"users": 'expire = "10 min"'}}]
    with new_folder() as folder, Directors(folder, first="127.0.56.71", state="memory:", each=each) as ring:
        first, second, third = ring.all
        for director in (first, second):
            director.wait_whole(2)
        until(lambda: ("backends", second.member) in alarms(first), what=first.log)
        until(lambda: ("users.expire", third.member) in alarms(first) | alarms(second), what=first.log)
        shown = first.command("status").stdout
        assert f"ALARM {second.member} has other backends in its configuration file than this" in shown
        (second.folder / "secret").chmod(0o644)
        second.config.write_text(second.config.read_text().replace("127.0.3.3", "127.0.3.4"))
        assert second.command("reload").returncode == 0
        until(lambda: not any(kind == "backends" for kind, _ in alarms(first)), what=first.log)
        until(lambda: ("secret", str(second.folder / "secret")) in alarms(second), what=second.log)
        metrics = first.request("GET", "/metrics")[1].decode()
        assert 'director_directors_differ{what="backends"} 0.0' in metrics
