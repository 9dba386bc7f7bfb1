"""The faults of the lab, one function each. Failures that are allowed meanwhile, and the reasons, are in the
function.

Unless a scenario says otherwise no login or delivery may fail, no session may be cut, and no user may be on
two backends, not even for a moment: docs/operating.md, "What fails, and what is seen".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.lab.judge import CUT
from tests.lab.lab import Lab, NotAsItShould

CHECKED = 3.0
"""Seconds within which the load balancer notices: two checks, a second apart, and their duration."""
GREETING = 1.0
"""Seconds for which a login may have been in progress before the fault that hit it."""
STRAGGLERS = 35.0
"""Seconds in which a director checks, every 5 s, for sessions that have begun on a former backend."""
IDLE_LMTP = 70.0
"""Seconds in which an LMTP process gets work, or is ended by Dovecot (after 60 s)."""
REDIS = ("redis1", "redis2", "sentinel1", "sentinel2", "sentinel3")


class Scenario(NamedTuple):
    name: str
    run: Callable[[Lab], None]
    bound: float = 0.0
    """Seconds for which a user may be on two backends."""
    tidy: Sequence[Sequence[str]] = ()
    """Commands of an operator at the end, after the changes were checked."""

    @property
    def about(self) -> str:
        return (self.run.__doc__ or "").partition("\n")[0]


def director(lab: Lab) -> None:
    """Kill one director's container, and start it."""
    began = time.time()
    lab.compose.kill("director2")
    lab.until("the load balancer leaves proxy2 out", lambda: not lab.balanced(2))
    # Until then proxy2 got connections. Its login processes have no director to ask, and their clients wait
    # until the director is back.
    lab.allow("proxy2 without its director", began - GREETING, proxy="proxy2")
    _two_do_the_work(lab)
    began = time.time()
    lab.compose.start("director2")
    # The load balancer uses a server whose name resolves again until its first check.
    lab.until("director2 answers", lambda: lab.ask(2, "/v1/ring"))
    lab.until("proxy2 is back", lambda: lab.balanced(2))
    lab.allow("director2 is starting", began, proxy="proxy2")
    _idle_deliverers(lab, "proxy2")


def directors(lab: Lab) -> None:
    """Kill all directors' containers, and start them."""
    began = time.time()
    lab.compose.kill("director1", "director2", "director3")
    lab.until("the load balancer has no proxy", lambda: not any(map(lab.balanced, (1, 2, 3))))
    lab.compose.start("director1", "director2", "director3")
    lab.until("all proxies are back", lambda: all(map(lab.balanced, (1, 2, 3))))
    lab.allow("no director", began - GREETING)
    _idle_deliverers(lab)


def redis_primary(lab: Lab) -> None:
    """Kill the Redis primary: a sentinel makes the replica the primary; start the old one."""
    before = _primary(lab)
    lab.compose.kill(before)
    lab.until("a sentinel has named another primary", lambda: _primary(lab) not in ("", before))
    lab.until("the directors have their store again", lambda: _stores(lab) == 3)
    lab.compose.start(before)


def redis_lost(lab: Lab) -> None:
    """Remove all of Redis, containers and volumes, and make it anew: it is empty."""
    lab.compose.remove(*REDIS, volumes=REDIS)
    lab.until("the directors are without their store", lambda: _stores(lab) == 0)
    _two_do_the_work(lab)
    lab.compose.recreate(*REDIS)
    lab.until("the directors have a store again", lambda: _stores(lab) == 3, within=90)


def ring_partition(lab: Lab) -> None:
    """Partition one director off from the others, move a user of its proxy meanwhile, and reconnect it."""
    sessions = lab.through(2)
    if not sessions:
        raise NotAsItShould("no long session goes through proxy2: nothing was tested")
    user, was = sessions[0].user, sessions[0].backend
    with lab.compose.disconnected("director2", "ring"):
        lab.until("the others miss director2", lambda: lab.ask(1, "/v1/ring")["missing"])
        with lab.moving():
            lab.director(1, "move", user, "backend1" if was != "backend1" else "backend3")
            lab.until(f"{user}'s session on {was} has ended", lambda: sessions[0] not in lab.through(2))
        time.sleep(5)


def redis_partition(lab: Lab) -> None:
    """Partition one director off from Redis, and reconnect it."""
    with lab.compose.disconnected("director2", "store"):
        lab.until("director2 is without its store", lambda: not lab.ask(2, "/v1/status")["store"]["up"])
        time.sleep(5)


def backend(lab: Lab) -> None:
    """Stop a backend, mark it down, drain it, and bring it back."""
    users, began = lab.users_of("backend3"), time.time()
    lab.compose.stop("backend3")
    lab.director(1, "down", "backend3", "--reason", "it has stopped")
    lab.director(1, "drain", "backend3", "--reason", "it has stopped")
    # The logins of these users fail until the users are moved. A login process that has begun to connect to a
    # backend continues for 30 s: if it succeeds late, the session is ended when a director sees it.
    lab.allow("their backend was stopped", began - GREETING, users=users)
    lab.allow("their backend was stopped", began - GREETING, users=users, what=CUT, longer=STRAGGLERS)
    if remaining := lab.users_of("backend3"):
        raise NotAsItShould(f"{len(remaining)} users are still on backend3 after drain")
    _two_do_the_work(lab)
    lab.compose.start("backend3")
    lab.until("backend3 is healthy", lambda: "(healthy)" in lab.compose.services()["backend3"])
    lab.director(1, "up", "backend3")
    lab.director(1, "update", "backend3", "100", "--reason", "it is back")


def add_proxy(lab: Lab) -> None:
    """Add a fourth proxy with its director."""
    lab.compose.recreate("director4")
    lab.until("director4 answers", lambda: lab.ask(4, "/v1/ring"))
    lab.director(1, "ring", "add", "director4.ring")
    lab.proxies = 4
    # Last, because the load balancer uses a server whose name resolves until its first check.
    lab.compose.recreate("proxy4")
    began = time.time()
    lab.until("the load balancer uses proxy4", lambda: lab.balanced(4), within=60)
    lab.until(
        "users log in through proxy4",
        lambda: any(event.proxy == "proxy4" and event.ended > began for event in lab.events()),
    )


def remove_proxy(lab: Lab) -> None:
    """Remove the fourth proxy: no new connections, then its proxy, its place in the ring, its containers."""
    if lab.proxies < 4:
        add_proxy(lab)
        lab.until_well()
    _out_of_the_balancer(lab, 4)
    began = time.time()
    lab.compose.stop("proxy4")
    lab.director(1, "ring", "remove", "director4.ring")
    lab.compose.remove("proxy4", "director4", volumes=("run4", "state4"))
    lab.proxies = 3
    lab.allow("proxy4 was stopped", began, what=CUT, proxy="proxy4", longer=2.0)
    lab.balancer("set", "server", "directors/director4", "state", "ready")


def rolling_upgrade(lab: Lab) -> None:
    """Give all proxies and directors a new image, one by one, each out of the load balancer first."""
    for service in ("director1", "proxy1"):
        lab.compose.new_image(lab.compose.inspect(service)["Config"]["Image"])
    for number in range(1, lab.proxies + 1):
        _out_of_the_balancer(lab, number)
        began = time.time()
        services = (f"director{number}", f"proxy{number}")
        before = [lab.compose.inspect(service)["Image"] for service in services]
        lab.compose.recreate(*services)
        lab.allow(f"proxy{number} is made anew", began, what=CUT, proxy=f"proxy{number}", longer=2.0)
        if set(before) & {lab.compose.inspect(service)["Image"] for service in services}:
            raise NotAsItShould(f"proxy{number} runs the image it had")
        _into_the_balancer(lab, number)


def backend_address(lab: Lab) -> None:
    """Stop a backend; it comes back with another address."""
    users, before, began = lab.users_of("backend2"), lab.hosts()["backend2"]["address"], time.time()
    with lab.compose.elsewhere("backend2", "mail"):
        lab.compose.start("backend2")
        now = lab.compose.address("backend2", "mail")
        if now == before:
            raise NotAsItShould(f"backend2 came back with the address it had, {now}")
        lab.until(
            f"all directors have it at {now}",
            lambda: all(lab.hosts(number)["backend2"]["address"] == now for number in (1, 2, 3)),
        )
    for what in ("login", CUT):
        lab.allow("their backend was stopped", began - GREETING, what=what, users=users, longer=1.0)


def director_address(lab: Lab) -> None:
    """Stop a director; it comes back with another address in the ring."""
    before, began = lab.compose.address("director2", "ring"), time.time()
    with lab.compose.elsewhere("director2", "ring"):
        lab.until("the load balancer leaves proxy2 out", lambda: not lab.balanced(2))
        lab.compose.start("director2")
        lab.until("director2 answers", lambda: lab.ask(2, "/v1/ring"))
        lab.until("proxy2 is back", lambda: lab.balanced(2))
        lab.allow("proxy2 without its director", began - GREETING, proxy="proxy2")
        _idle_deliverers(lab, "proxy2")
        if (now := lab.compose.address("director2", "ring")) == before:
            raise NotAsItShould(f"director2 came back with the address it had, {now}")
        lab.until_well()


def redis_address(lab: Lab) -> None:
    """The Redis primary and a sentinel come back with other addresses; then the new primary is killed."""
    first = _primary(lab)
    moved = (first, "sentinel3")
    before = {service: lab.compose.address(service, "store") for service in moved}
    with lab.compose.elsewhere(moved[0], "store"), lab.compose.elsewhere(moved[1], "store"):
        lab.until("a sentinel has named another primary", lambda: _primary(lab) not in ("", first))
        lab.compose.start(*moved)
        for service in moved:
            if lab.compose.address(service, "store") == before[service]:
                raise NotAsItShould(f"{service} came back with the address it had, {before[service]}")
        lab.until_well()
    second = _primary(lab)
    lab.compose.kill(second)
    lab.until(f"the sentinels have named {first} again", lambda: _primary(lab) == first)
    lab.until("the directors have their store again", lambda: _stores(lab) == 3)
    lab.compose.start(second)


ALL = (
    Scenario("director", director),
    Scenario("directors", directors),
    Scenario("redis-primary", redis_primary),
    Scenario("redis-lost", redis_lost),
    # A partitioned-off director learns of a move from the store, which it reads every 500 ms. A kick takes 4
    # s at most, and the user's logins continue on another host after the kick delay of 2 s.
    Scenario("ring-partition", ring_partition, bound=2.5),
    Scenario("redis-partition", redis_partition),
    # A login in flight to the backend when it stopped succeeds when it is back, and the session is found
    # within 5 s.
    Scenario("backend", backend, bound=6.0, tidy=[("rebalance",)]),
    Scenario("add-proxy", add_proxy),
    Scenario("remove-proxy", remove_proxy),
    Scenario("rolling-upgrade", rolling_upgrade),
    Scenario("backend-address", backend_address),
    Scenario("director-address", director_address),
    Scenario("redis-address", redis_address),
)


def _two_do_the_work(lab: Lab) -> None:
    """Let the clients continue for a while with the directors that are left."""
    began = time.time()
    lab.until(
        "the clients continued for 5 s",
        lambda: time.time() - began > 5 and any(event.began > began for event in lab.events()),
    )


def _idle_deliverers(lab: Lab, proxy: str = "") -> None:
    """Allow a failed delivery after a director's start: an LMTP process that was idle notices only at its
    next use that its connection to the former director is dead. That delivery gets 451, and a mail
    server sends it again."""
    lab.allow("an idle LMTP process", time.time(), proxy=proxy, protocol="lmtp", longer=IDLE_LMTP)


def _primary(lab: Lab) -> str:
    """Return the primary that the sentinels name; empty: no sentinel answers."""
    return lab.compose.exec("sentinel1", "sh", "-c", ". /lab/lib.sh; primary_says_sentinel").strip()


def _stores(lab: Lab) -> int:
    """Return how many directors reach their store."""
    return sum(lab.ask(number, "/v1/status")["store"]["up"] for number in range(1, lab.proxies + 1))


def _out_of_the_balancer(lab: Lab, number: int) -> None:
    """Stop new connections to that proxy, and wait until all sessions but the long ones have ended."""
    lab.balancer("set", "server", f"directors/director{number}", "state", "drain")
    lab.until(f"the load balancer leaves proxy{number} out", lambda: not lab.balanced(number))
    since = time.time()
    lab.until(f"short sessions through proxy{number} have ended", lambda: time.time() - since > CHECKED)


def _into_the_balancer(lab: Lab, number: int) -> None:
    """Allow connections again, once the proxy is ready and the load balancer knows its address."""
    services = (f"director{number}", f"proxy{number}")
    lab.until(
        f"{' and '.join(services)} are healthy",
        lambda: all("(healthy)" in lab.compose.services().get(service, "") for service in services),
        within=60,
    )
    place = lab.compose.address(f"proxy{number}", "front")
    lab.until(
        f"the load balancer has proxy{number} at {place}", lambda: f" proxy{number} {place} " in _places(lab)
    )
    lab.balancer("set", "server", f"directors/director{number}", "state", "ready")
    lab.until(f"the load balancer uses proxy{number}", lambda: lab.balanced(number))


def _places(lab: Lab) -> str:
    return lab.balancer("show", "servers", "state")
