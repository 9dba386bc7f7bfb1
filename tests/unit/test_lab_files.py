"""The lab's files: the rights of the containers, their networks and ports, and that the files agree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAB = ROOT / "deploy/lab"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (LAB / "Dockerfile").read_text()
SCRIPTS = sorted(path for path in LAB.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!"))
DEBIAN = {"2.4": "trixie", "2.3": "bookworm"}


def stages() -> dict[str, str]:
    """Return the lines of each target of the Dockerfile."""
    found = {}
    for part in re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]:
        match = re.match(r"FROM \S+ AS (\S+)\n", part)
        assert match is not None, part[:60]
        found[match[1]] = part
    return found


def built_by(image: str) -> list[str]:
    """Return the services that build an image."""
    return [name for name, builder in SERVICES.items() if builder["image"] == image and "build" in builder]


def ports() -> list[str]:
    return [str(port) for service in SERVICES.values() for port in service.get("ports", ())]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_writes_to_its_volumes_only_and_has_the_rights_of_an_ordinary_user(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "user"} & service.keys()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_does_not_run_as_root_and_has_a_health_check(name: str) -> None:
    builder = built_by(SERVICES[name]["image"])[0]
    stage = stages()[SERVICES[builder]["build"]["target"]]
    assert "\nUSER lab\n" in stage or stage.startswith("FROM director ")
    assert "\nHEALTHCHECK " in stage or name == "secrets"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_built_once_and_before_others_run_it(name: str) -> None:
    """Compose v2 builds all at once: after two builds of one name it makes the containers again the next
    time."""
    profiles = set(SERVICES[name].get("profiles", ()))
    order = list(SERVICES)
    builders = built_by(SERVICES[name]["image"])
    assert len({SERVICES[builder]["build"]["target"] for builder in builders}) == 1
    builders = [
        builder for builder in builders if profiles <= set(SERVICES[builder].get("profiles", profiles))
    ]
    assert len(builders) == 1
    assert order.index(builders[0]) <= order.index(name)


def test_ports_are_published_on_this_machine_only() -> None:
    assert len(ports()) > 6
    assert [port for port in ports() if not port.startswith("127.0.0.1:")] == []


def test_every_published_port_can_be_changed_and_none_is_used_twice() -> None:
    variables = [re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\d+", port) for port in ports()]
    assert all(variables)
    for group in (1, 2):
        found = [match[group] for match in variables if match]
        assert len(found) == len(set(found))


def test_each_director_is_found_by_the_others_on_the_network_of_the_ring_only() -> None:
    for number in range(1, 5):
        networks = SERVICES[f"director{number}"]["networks"]
        assert networks["ring"] == {"aliases": [f"director{number}.ring"]}
        assert set(networks) == {"front", "store", "mail", "ring"}
    assert all(
        "ring" not in SERVICES[name]["networks"] for name in SERVICES if re.match("proxy|backend|lb", name)
    )


def test_a_director_shares_its_sockets_with_its_dovecot_only() -> None:
    for number in range(1, 5):
        mount = f"run{number}:/run/dovecot"
        assert {name for name in SERVICES if mount in SERVICES[name].get("volumes", ())} == {
            f"director{number}",
            f"proxy{number}",
        }


def test_only_the_service_that_makes_the_secrets_may_write_them() -> None:
    mounts = {
        name: mount
        for name, service in SERVICES.items()
        for mount in service.get("volumes", ())
        if mount.startswith("secrets:")
    }
    assert {name for name, mount in mounts.items() if not mount.endswith(":ro")} == {"secrets"}
    assert all(
        SERVICES[name]["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}
        for name in mounts
        if name != "secrets"
    )


def test_every_secret_that_is_read_is_made() -> None:
    made = re.search(r"^for name in (.*); do$", (LAB / "secrets/make").read_text(), flags=re.MULTILINE)
    assert made is not None
    pattern = re.compile(r"[a-z-]+\.(?:secret|token|password)\b")
    files = [path for path in LAB.rglob("*") if path.is_file() and path.suffix != ".pyc"] + [
        *(ROOT / "deploy/prometheus").glob("*")
    ]
    read = {name for path in files for name in pattern.findall(path.read_text())}
    assert {name for name in read if "/" not in name} <= set(made[1].split())


def test_no_program_is_given_a_secret_as_an_argument() -> None:
    secret = re.compile(r"\$\{?password|\$\(secret |\$\(cat [^)]*secrets")
    allowed = re.compile(r"^\s*(printf|echo|REDISCLI_AUTH=\S+ )|^(user|masterauth|sentinel)\b|^\s*password=")
    lines = [line for path in [*SCRIPTS, LAB / "redis/lib.sh"] for line in path.read_text().splitlines()]
    given = [line for line in lines if secret.search(line)]
    assert len(given) >= 5
    assert [line for line in given if not allowed.search(line)] == []


def test_every_volume_and_network_is_declared_and_used() -> None:
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())}
    assert used == set(COMPOSE["volumes"])
    joined = {name for service in SERVICES.values() for name in service.get("networks", ())}
    assert joined == set(COMPOSE["networks"])


def test_the_load_balancer_knows_every_proxy_and_follows_its_director() -> None:
    text = (LAB / "lb/haproxy.cfg").read_text()
    for number in range(1, 5):
        assert f"server director{number} director{number}:9092" in text
        lines = re.findall(rf"server proxy{number} proxy{number}:\d+ track directors/director{number}", text)
        assert len(lines) == len(re.findall(r"^frontend (?!stats)", text, flags=re.MULTILINE))


def test_a_build_gets_only_the_files_that_it_copies() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = set(re.findall(r"^COPY (?!--from)((?:\S+ )+)\S+$", DOCKERFILE, flags=re.MULTILINE))
    sources = {source for line in copied for source in line.split()}
    unseen = {s for s in sources if not any(s == path or s.startswith(path + "/") for path in allowed)}
    assert unseen == set()


def test_the_images_are_of_the_debian_releases_that_have_these_dovecots() -> None:
    for version, debian in DEBIAN.items():
        assert f"FROM ${{DEBIAN}}:{debian}-slim AS debian-{version}\n" in DOCKERFILE
        assert (LAB / "dovecot" / version / "proxy.conf").exists()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(LAB)))
def test_a_script_can_be_run_and_stops_at_the_first_error(path: Path) -> None:
    text = path.read_text()
    shell = re.match(r"#!(/bin/(?:ba)?sh)\n", text)
    assert shell is not None
    assert path.stat().st_mode & 0o111
    assert "\nset -eu\n" in text or text.count("\nexec ") == 1
    assert shutil.which(shell[1]) is not None
    assert subprocess.run([shell[1], "-n", str(path)], check=False).returncode == 0
