"""A director installed as README says, on a machine with systemd, ended in many ways.

`python -m tests.booted BASE [-v]`. BASE is the root file system of a fresh Debian 12 (`debootstrap`, with
systemd) that can fetch packages. It is copied twice, for a backend and a proxy. Prints the results; ends with
1 if anything is wrong. It is no test: it needs root and the Internet, and takes minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.machines import Machine, machines

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "tests/booted_client.py"
SOCKETS = " ".join(path.name for path in (ROOT / "deploy/systemd").glob("*.socket"))
ADDRESSES = {"mail1": "10.1.0.1", "proxy1": "10.0.0.1"}
INSTALL = "export DEBIAN_FRONTEND=noninteractive; apt-get -q update; apt-get -q install -y"
DOVECOT = "dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-managesieved dovecot-submissiond"
BACKEND = """
cp director/deploy/dovecot/2.3/backend.conf /etc/dovecot/local.conf
sed -i '/auth-system/d' /etc/dovecot/conf.d/10-auth.conf
cat >> /etc/dovecot/local.conf <<X
passdb {
  driver = static
  args = password=word
}
userdb {
  driver = static
  args = uid=mail gid=mail home=/srv/mail/%u
}
first_valid_uid = 1
mail_location = maildir:~/Maildir
X
install -d -o mail -g mail /srv/mail
systemctl restart dovecot
"""
EDIT = """
sed -i 's/^mail_servers = .*/mail_servers = ["10.1.0.1"]/' /etc/director/director.toml
cd director
"""
PROXY = """
cp director/deploy/dovecot/2.3/proxy.conf /etc/dovecot/local.conf
sed -i 's/^!include auth-system.conf.ext/#&/' /etc/dovecot/conf.d/10-auth.conf
systemctl restart dovecot
"""
DOCTOR = "/opt/director/bin/director doctor"
KILL = "systemctl kill -s KILL director"
FIFO = "rm /run/dovecot/login/director/proxy-notify"
ENDINGS = {
    KILL: 3,
    f"for n in 1 2 3; do {KILL}; sleep 5; done": 15,
    "systemctl stop director": 0,
    "systemctl stop director; sleep 1; systemctl start director": 0,
    "systemctl restart director": 0,
    "systemctl reload director": 0,
    "/opt/director/bin/director reload --exec": 0,
    f"{FIFO}; systemctl restart director.service director-notify.socket": 0,
    "systemctl restart dovecot": 30,
}
"""Commands, and how many logins may fail with each: logins that a director is answering when it is killed,
and logins that arrive while Dovecot itself does not listen."""
EXPECTED = ("event=notify_fifo_lost", "event=auth_")
"""The warnings that these commands cause: the FIFO is removed, and Dovecot restarted."""
SLOWEST, LONGEST_NOOP = 8.0, 0.5
"""Seconds of a login, and of a NOOP in a session that is open meanwhile."""
FAILING_FOR = 150
"""Seconds of a start that fails. The reason is logged once a minute."""
UNREADABLE = """
cd /etc/director
sed -i 's/^# secret_file/secret_file/; s/^servers = .*/servers = ["127.0.0.1"]/' director.toml
chown root: /etc/director/ring.secret
systemctl restart --no-block director
"""
REFUSED = "cannot be read by uid"


def block(number: int) -> str:
    """Return the commands of a block under "Install it for real"."""
    part = (ROOT / "README.md").read_text().partition("## Install it for real\n")[2].partition("\n## ")[0]
    blocks = [lines for lines in part.split("\n\n") if lines.startswith("    ")]
    return "\n".join(line[4:] for line in blocks[number].splitlines())


class Trial:
    """Runs commands on a machine, and counts wrong results."""

    def __init__(self, proxy: Machine, *, verbose: bool) -> None:
        self.proxy, self.verbose, self.wrong = proxy, verbose, 0

    def do(self, title: str, script: str, machine: Machine | None = None, *, outside: bool = False) -> str:
        """Run a script and return what it printed. Exits if the script fails."""
        began = time.monotonic()
        result = (machine or self.proxy).run(f"cd /root\n{script}", outside=outside)
        print(f"{time.monotonic() - began:7.1f} s  {title}", flush=True)
        if result.returncode or self.verbose:
            print(result.stdout)
        if result.returncode:
            raise SystemExit(f"failed with exit code {result.returncode}: {script}")
        return result.stdout

    def see(self, right: bool, text: str) -> None:
        self.wrong += not right
        print(f"{'ok' if right else 'WRONG':>9}  {text}", flush=True)

    def sockets_are_open(self) -> bool:
        return set(self.proxy.run(f"systemctl is-active {SOCKETS} || true").stdout.split()) == {"active"}

    def ended(self, command: str, may_fail: int) -> None:
        seen = json.loads(self.do(command, f"python3 client.py '{command}'").splitlines()[-1])
        right = len(seen["failed"]) <= may_fail and seen["slowest"] < SLOWEST and seen["rc"] == 0
        if "dovecot" not in command.split():  # Dovecot's restart itself ends its sessions
            right = right and not seen["lost"] and seen["noop"] < LONGEST_NOOP
        self.see(right and self.sockets_are_open(), str(seen))

    def doctor(self) -> None:
        findings = json.loads(self.do("doctor", f"{DOCTOR} --json"))["findings"]
        levels = {(one["check"], one["level"]) for one in findings}
        bad = sorted(one for one in levels if one[1] not in ("ok", "hint"))
        self.see(
            not bad and {("units", "ok"), ("unit_user", "ok")} <= levels, f"the units are seen; bad: {bad}"
        )

    def log(self) -> None:
        logged = self.proxy.run("journalctl -u director -o cat | grep -E 'level=(warn|err)' || true").stdout
        strange = [line for line in logged.splitlines() if not any(event in line for event in EXPECTED)]
        self.see(not strange, f"warnings and errors of the director: {strange}")

    def failing_start(self) -> None:
        since = self.proxy.run("date +%s").stdout.strip()
        self.do("a secret that user dovecot cannot read", f"{UNREADABLE}sleep {FAILING_FOR}")
        logged = self.proxy.run(f"journalctl -u director --since=@{since}").stdout.count(REFUSED)
        self.see(logged == FAILING_FOR // 60 + 1 and self.sockets_are_open(), f"logged {logged} times")
        output = self.proxy.run(f"{DOCTOR} || true").stdout
        self.see("User=dovecot" in output and REFUSED in " ".join(output.split()), "doctor names it")
        self.do("the secret is given to dovecot", "chown dovecot: /etc/director/ring.secret; sleep 12")
        self.do("a login", "python3 client.py true")


def main(base: Path, *, verbose: bool) -> int:
    with (
        tempfile.TemporaryDirectory(dir=base.parent) as folder,
        machines(base, Path(folder), ADDRESSES) as running,
    ):
        mail, trial = running["mail1"], Trial(running["proxy1"], verbose=verbose)
        for machine in running.values():
            subprocess.run(["git", "clone", "-q", "--bare", ROOT, machine.root / "root/project"], check=True)
        (trial.proxy.root / "root/client.py").write_text(CLIENT.read_text())
        clone = "git clone -q project director"
        trial.do("a backend", f"{INSTALL} git dovecot-imapd dovecot-lmtpd; {clone}", mail, outside=True)
        trial.do("its configuration", BACKEND, mail)
        trial.do("a proxy's Dovecot", f"{INSTALL} {DOVECOT}", outside=True)
        trial.do("README, first block", block(0).replace("URL", "/root/project"), outside=True)
        enable, _, doctor = block(1).rpartition("\n")
        trial.do("README, second block", EDIT + enable)
        asks_not_yet = f"code=0\n{doctor.partition('#')[0]} || code=$?\ntest $code = 78"
        trial.do("doctor, of a Dovecot that does not ask yet", asks_not_yet)
        trial.do("Dovecot asks", PROXY)
        trial.do("a login", "python3 client.py true")
        trial.doctor()
        for command, may_fail in ENDINGS.items():
            trial.ended(command, may_fail)
        hangs = "systemctl kill -s STOP director; sleep 40; systemctl is-active director"
        trial.do("a director that hangs is replaced (WatchdogSec=)", hangs)
        trial.log()
        trial.failing_start()
        trial.doctor()
    print(f"{trial.wrong} wrong")
    return 1 if trial.wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), verbose="-v" in sys.argv))
