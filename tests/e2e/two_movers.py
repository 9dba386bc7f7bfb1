"""Two operators move the same users to different hosts on two directors in the same instant:
`python -m tests.e2e.two_movers --times 20`.

Three directors with a Dovecot proxy each, real sessions. Afterwards all directors must name one host for each
user, no old session may be left, and each operator must have got a true answer. Ends with code 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from director.demo.cluster import Cluster
from director.demo.ports import addresses, free_ports
from director.errors import EX_TRY_AGAIN
from tests.e2e.processes import until
from tests.e2e.sessions import Sessions

PROXIES, BACKENDS = "127.0.52.11", "127.0.53.1"
USERS = [f"wanted{number}" for number in range(40)]
MOVERS = (0, 1)
"""The numbers of the directors that are asked, of three."""
COLUMNS = ("time", "won by the first", "by the second", "superseded", "refused", "seconds", "differences")
ANSWER_WITHIN = 40.0


class Answer(NamedTuple):
    """The host that an operator wanted for a user, and the answer."""

    user: str
    wanted: str
    status: int
    answer: dict[str, Any]

    @property
    def won(self) -> bool:
        return self.status == 200 and self.answer["moved"] == 1

    @property
    def superseded(self) -> bool:
        return self.status == 200 and self.answer["superseded"] == 1

    @property
    def refused(self) -> bool:
        """Whether the command was refused because the user is being moved already."""
        return self.status == 503 and self.answer["exit_code"] == EX_TRY_AGAIN


class Round(NamedTuple):
    """The result of moving all users once by each operator."""

    answers: list[list[Answer]]
    """The answers to each operator, in the order of the users."""
    seconds: float
    differences: list[str]


@contextmanager
def mail() -> Iterator[Cluster]:
    proxies = addresses(PROXIES, 3)
    ports = free_ports([*proxies, *addresses(BACKENDS, 4)], proxies)
    settings = {"users": 'kick_delay = "500 ms"'}
    cluster = Cluster(ports=ports, first_proxy=PROXIES, first_backend=BACKENDS, settings=settings)
    with cluster:
        until(
            lambda: all(len(director.ask("ring", "status")["ring"]) == 3 for director in cluster.directors),
            what="the ring is complete",
        )
        yield cluster


def move_all_twice(cluster: Cluster, chance: random.Random) -> Round:
    """Open a session for each user, and move every user by both operators, to different hosts."""
    with Sessions(cluster) as sessions:
        for number, user in enumerate(USERS):
            sessions.imap(user, [cluster.proxy_addresses[number % 3]])
        before = mapped(cluster, 0)
        hosts = [backend.address for backend in cluster.backends]
        wanted = {user: chance.sample([host for host in hosts if host != before[user]], 2) for user in USERS}
        began = time.monotonic()
        answers_by_operator = asyncio.run(ask_both([cluster.directors[n].api_path for n in MOVERS], wanted))
        seconds = time.monotonic() - began
        still_open = set(sessions.of(*USERS)) - set(sessions.ended())
    where = [mapped(cluster, number) for number in range(3)]
    differences = [
        f"{session.user}: a session through {session.proxy} is still open" for session in still_open
    ]
    for number, user in enumerate(USERS):
        answers = [of_one[number] for of_one in answers_by_operator]
        differences += [f"{user}: {text}" for text in untrue(answers, [hosts[user] for hosts in where])]
    return Round(answers_by_operator, seconds, differences)


def untrue(answers: Sequence[Answer], where: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the answers about one user. `where`: the user's host on each director."""
    if len(set(where)) != 1:
        yield f"the directors do not agree: {', '.join(where)}"
        return
    host = where[0]
    if sum(answer.won for answer in answers) != 1:
        yield f"{sum(answer.won for answer in answers)} operators have won, the user is on {host}"
    for answer in answers:
        if answer.won:
            if host != answer.wanted:
                yield f"moved to {answer.wanted} by the answer, but the user is on {host}"
        elif answer.superseded:
            if host == answer.wanted or answer.answer["host"] != host:
                yield f"superseded by {answer.answer['host']} by the answer, but the user is on {host}"
        elif not answer.refused:
            yield f"answered {answer.status}: {answer.answer}"


def mapped(cluster: Cluster, number: int) -> dict[str, str]:
    """Return the host of each user as one director lists them."""
    listed = {user["name"]: user["host"] for user in cluster.directors[number].ask("map")}
    return {user: listed.get(user, "nowhere") for user in USERS}


async def ask_both(apis: Sequence[Path], wanted: dict[str, list[str]]) -> list[list[Answer]]:
    """Ask one director for the first host of each user and another for the second, all at the same time."""
    start = asyncio.Event()
    pairs = [
        [asyncio.create_task(move(api, user, host, start)) for api, host in zip(apis, hosts, strict=True)]
        for user, hosts in wanted.items()
    ]
    await asyncio.sleep(0.2)  # until all are connected
    start.set()
    return [list(await asyncio.gather(*of_one)) for of_one in zip(*pairs, strict=True)]


async def move(api: Path, user: str, host: str, start: asyncio.Event) -> Answer:
    reader, writer = await asyncio.open_unix_connection(str(api))
    await start.wait()
    body = json.dumps({"user": user, "host": host}).encode()
    writer.write(
        b"POST /v1/moves HTTP/1.1\r\nHost: director\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    answer = await asyncio.wait_for(reader.read(), ANSWER_WITHIN)
    writer.close()
    head, _, document = answer.partition(b"\r\n\r\n")
    return Answer(user, host, int(head.split()[1]), json.loads(document))


def row(number: int, round_: Round) -> tuple[object, ...]:
    first, second = (sum(answer.won for answer in of_one) for of_one in round_.answers)
    count = Counter(
        "superseded" if answer.superseded else "refused" if answer.refused else "other"
        for of_one in round_.answers
        for answer in of_one
    )
    seconds = f"{round_.seconds:.1f}"
    return number, first, second, count["superseded"], count["refused"], seconds, len(round_.differences)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    differences: list[str] = []
    with mail() as cluster:
        print("  ".join(COLUMNS))
        for number in range(1, arguments.times + 1):
            round_ = move_all_twice(cluster, chance)
            cells = zip(row(number, round_), COLUMNS, strict=True)
            print("  ".join(str(cell).rjust(len(title)) for cell, title in cells), flush=True)
            differences += [f"{number}: {text}" for text in round_.differences]
    for text in differences:
        print(text)
    print(f"{len(USERS)} users moved {arguments.times} times: {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
