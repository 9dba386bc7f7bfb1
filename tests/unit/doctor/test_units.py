"""Findings about systemd's units."""

from __future__ import annotations

import configparser
from pathlib import Path

import msgspec
import pytest

from director.doctor.facts import Facts, Keeper, ProcessUser, Settings, Unit, UnitUser
from director.doctor.findings import FAULT, OK, UNSEEN, WARNING
from director.doctor.systemd import read, service_in
from director.doctor.units import check
from director.records import RingInfo, StatusInfo, StoreInfo

SYSTEMD = Path(__file__).parents[3] / "deploy/systemd"
SERVICE = {
    "KillMode": "process",
    "ExitType": "main",
    "OOMPolicy": "stop",
    "Restart": "always",
    "StartLimitIntervalUSec": "0",
    "StartLimitBurst": "5",
    "RuntimeDirectory": "",
    "RuntimeDirectoryPreserve": "no",
    "TriggeredBy": "",
}
SOCKET = {"TriggerLimitIntervalUSec": "0", "TriggerLimitBurst": "200", "PartOf": "", "BindsTo": ""}
KEEPER = Keeper(path="/run/dovecot/director-keeper", process=4711, standalone=False, listeners=("login",))
RING = RingInfo(me="a:1", synced=True, ring=["a:1"], missing=[], waiting_logins=0, members=[])
STATUS = StatusInfo(
    version="1.0",
    me="a:1",
    started=0,
    hosts=[],
    users=0,
    ring=RING,
    store=StoreInfo(url="sqlite:////s.db", shared=False, up=True, loaded=True),
    sockets_kept_by="keeper",
)
SHOWN = """\
Id=director.service
LoadState=loaded
KillMode=control-group
TriggeredBy=director-login.socket director-userdb.socket

Id=director-login.socket
TriggerLimitIntervalUSec=2s
PartOf=director.service dovecot.service
"""


def service(**changes: str) -> Unit:
    return Unit(name="director.service", settings=SERVICE | changes)


def socket(**changes: str) -> Unit:
    return Unit(name="director-login.socket", settings=SOCKET | changes)


def told(*units: Unit, kept_by: str = "keeper", keeper: Keeper | None = KEEPER) -> list[str]:
    """Texts of the findings apart from `ok`."""
    facts = Facts(
        settings=Settings(),
        director_as=ProcessUser(uid=0, gids=(0,), name="root"),
        running=True,
        status=msgspec.structs.replace(STATUS, sockets_kept_by=kept_by),
        keeper=keeper,
        units=units,
    )
    findings = list(check(facts))
    assert {finding.area for finding in findings} <= {"sockets"}
    assert all(finding.fix and finding.why for finding in findings if finding.level == WARNING)
    return [finding.found for finding in findings if finding.level != OK]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("KillMode", "control-group"),
        ("KillMode", "mixed"),
        ("OOMPolicy", "kill"),
        ("ExitType", "cgroup"),
        ("Restart", "no"),
    ],
)
def test_a_service_that_ends_the_keeper_with_the_director_or_starts_no_other_is_named(
    setting: str, value: str
) -> None:
    assert told(service(**{setting: value})) == [f"director.service: {setting}={value}"]


def test_a_service_without_a_kill_mode_is_named_with_the_line_to_write() -> None:
    settings = {name: value for name, value in SERVICE.items() if name != "KillMode"}
    facts = Facts(
        settings=Settings(),
        director_as=ProcessUser(uid=0, gids=(0,), name="root"),
        running=True,
        status=STATUS,
        units=(Unit(name="proxy.service", settings=settings),),
    )
    (finding,) = check(facts)
    assert finding.level == WARNING
    assert "stall" in finding.why
    assert finding.fix == ("[Service]                # systemctl edit proxy.service", "KillMode=process")


def test_a_correct_service_with_a_keeper_is_ok_and_without_systemd_there_is_no_finding() -> None:
    assert told(service()) == told() == []
    assert told(service(KillMode="none")) == []


def test_a_service_whose_sockets_are_held_by_systemd_or_by_a_keeper_elsewhere_needs_no_kill_mode() -> None:
    assert told(service(KillMode="control-group"), socket(), kept_by="systemd", keeper=None) == []
    beside = msgspec.structs.replace(KEEPER, standalone=True)
    assert told(service(KillMode="control-group"), keeper=beside) == []


def test_a_limit_after_which_systemd_closes_the_sockets_is_named() -> None:
    assert told(service(StartLimitIntervalUSec="10s"), socket(), kept_by="systemd") == [
        "director.service: StartLimitIntervalSec=10s"
    ]
    assert told(service(), socket(TriggerLimitIntervalUSec="2s"), kept_by="systemd") == [
        "director-login.socket: TriggerLimitIntervalSec=2s"
    ]


def test_a_socket_unit_that_leaves_its_file_without_a_listener_is_named() -> None:
    """NOOP of live sessions took 4 s while the sockets were stopped, 0.3 s without the files."""
    place = f"{Settings().notify} (FIFO)"
    unit = socket(RemoveOnStop="no", Listen=place)
    assert told(service(), unit, kept_by="systemd") == ["director-login.socket: RemoveOnStop=no"]
    assert told(service(), socket(RemoveOnStop="yes", Listen=place), kept_by="systemd") == []
    assert told(service(), socket(RemoveOnStop="no", Listen="/run/x (Stream)"), kept_by="systemd") == []


@pytest.mark.parametrize("setting", ["PartOf", "BindsTo"])
def test_a_socket_unit_that_is_stopped_with_the_director_is_named(setting: str) -> None:
    unit = socket(**{setting: "dovecot.service director.service"})
    assert told(service(), unit, kept_by="systemd") == [f"director-login.socket: {setting}=director.service"]
    assert told(service(), socket(**{setting: "dovecot.service"}), kept_by="systemd") == []


def test_a_folder_of_the_sockets_that_systemd_removes_when_the_director_ends_is_named() -> None:
    (found,) = told(service(RuntimeDirectory="director dovecot"))
    assert found.startswith("director.service: RuntimeDirectory=dovecot, and /run/dovecot/login/director/")
    assert told(service(RuntimeDirectory="dovecot", RuntimeDirectoryPreserve="restart")) == []
    assert told(service(RuntimeDirectory="director")) == []


def test_the_output_of_systemctl_is_read_unit_by_unit() -> None:
    first, second = read(SHOWN)
    assert (first.name, first.words("TriggeredBy")) == (
        "director.service",
        ["director-login.socket", "director-userdb.socket"],
    )
    assert told(first, second, kept_by="systemd")[-2:] == [
        "director-login.socket: TriggerLimitIntervalSec=2s",
        "director-login.socket: PartOf=director.service",
    ]
    assert read("") == ()


def test_the_service_of_a_process_is_found_by_its_control_group() -> None:
    assert service_in("0::/system.slice/proxy.service\n") == "proxy.service"
    assert service_in("1:name=systemd:/system.slice/proxy.service\n0::/\n") == "proxy.service"
    assert service_in("0::/user.slice/user-0.slice/session-1.scope\n") is None
    assert service_in("0::/system.slice/containerd.service/kubepods/pod1\n") is None


DEFAULTS = {"TriggerLimitIntervalUSec": "2s", "RemoveOnStop": "no"}


def test_the_units_in_deploy_have_no_findings() -> None:
    found = [of_file(SYSTEMD / "director.service", {"StartLimitIntervalUSec": "10s"})]
    for name in ("login", "userdb", "notify"):
        found.append(of_file(SYSTEMD / f"director-{name}.socket", DEFAULTS))
    assert told(*found, kept_by="systemd", keeper=None) == []


def of_file(path: Path, default: dict[str, str]) -> Unit:
    """A unit as systemd shows it. default: for settings that the file does not have."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    settings = dict(default)
    for section in parser.sections():
        settings |= {
            name.replace("IntervalSec", "IntervalUSec"): value for name, value in parser[section].items()
        }
    for name, kind in (("ListenStream", "Stream"), ("ListenFIFO", "FIFO")):
        if name in settings:
            settings["Listen"] = f"{settings.pop(name)} ({kind})"
    return Unit(name=path.name, settings=settings)


@pytest.mark.parametrize(
    ("user", "level", "text"),
    [
        (UnitUser(unit="director.service", name="dovecot"), OK, "can read"),
        (
            UnitUser(unit="director.service", name="dovecot", problems=("ring.secret: denied",)),
            FAULT,
            "denied",
        ),
        (UnitUser(unit="director.service", name="dovecot", unseen="only root can"), UNSEEN, "User=dovecot"),
    ],
)
def test_the_configuration_is_checked_as_the_user_of_the_unit(user: UnitUser, level: str, text: str) -> None:
    facts = Facts(
        settings=Settings(),
        director_as=ProcessUser(uid=0, gids=(0,), name="root"),
        running=False,
        unit_user=user,
    )
    (found,) = [finding for finding in check(facts) if finding.check == "unit_user"]
    assert found.level == level
    assert text in found.found
    assert level != FAULT or found.fix == (
        "director config check --user dovecot      # repeat until it prints good",
    )
