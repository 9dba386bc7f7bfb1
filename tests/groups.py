"""Groups of Redis servers: a primary with replicas and sentinels, and a Cluster."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Self

from redis.crc import key_slot

from tests.servers import START_WITHIN, RedisServer, free_port

SERVICE = "mail"
USER = "director"
LOCAL = "127.0.0.1"

QUICK = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1", "repl-timeout": "5"}


class Group:
    """Servers that are started and ended together. Use it as a context manager."""

    def start(self) -> Self:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


class SentinelGroup(Group):
    """A primary, two replicas, and three sentinels that replace the primary half a second after it fails.

    `rights` are the rights of a user `director` with `password` on the servers; without them there is only
    the default user. `sentinel_rights` are the same on the sentinels, whose default user then has another
    password.
    """

    def __init__(self, *, rights: str = "", sentinel_rights: str = "", password: str = "") -> None:
        self.user = f"{USER}:{password}@" if rights else ""
        self.servers = [
            RedisServer(port=free_port(), options=QUICK | _user(rights, password)) for _ in range(3)
        ]
        self.sentinels: list[RedisServer] = []
        self._sentinel_user = _user(sentinel_rights, password)
        self.password_file = self.servers[0].folder / "password"
        self.password_file.write_text(password)

    @property
    def url(self) -> str:
        places = ",".join(f"{LOCAL}:{sentinel.port}" for sentinel in self.sentinels)
        query = f"?sentinel_username={USER}&sentinel_password_file={self.password_file}"
        return f"redis+sentinel://{self.user}{places}/{SERVICE}{query if self._sentinel_user else ''}"

    def start(self) -> Self:
        """Start all servers, and wait until the sentinels know each other and the replicas."""
        first, *others = self.servers
        for server in self.servers:
            server.begin()
        for server in self.servers:
            server.wait()
        for server in others:
            server.command("REPLICAOF", LOCAL, str(first.port))
        wait_for(lambda: first.command("INFO", "replication").count(b"state=online") == 2, "two replicas")
        for _ in range(3):
            self.sentinels.append(self._sentinel(first))
        for sentinel in self.sentinels:
            sentinel.wait()
        self.wait_until_named()
        return self

    def primary(self) -> RedisServer:
        """Return the server that the first sentinel names."""
        answer = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        port = int(answer.split(b"\r\n")[4])
        (server,) = (server for server in self.servers if server.port == port)
        return server

    def heal(self, server: RedisServer) -> None:
        """Start a server that was killed, and wait until it follows the primary.

        The sentinels must have replaced it before: if the old primary is reachable again, there is no
        failover.
        """
        wait_for(lambda: self.primary() is not server, "another primary")
        server.start()
        self.demote(server)

    def demote(self, server: RedisServer) -> None:
        """Make a former primary follow the new primary, as the sentinels would some seconds later."""
        primary = self.primary()
        server.command("REPLICAOF", LOCAL, str(primary.port))
        self.wait_until_named()

    def wait_until_named(self) -> None:
        """Wait until all sentinels name the same primary, know each other, and find all servers reachable."""

        def all_agree() -> bool:
            primary = self.primary()
            if primary.command("INFO", "replication").count(b"state=online") != 2:
                return False
            expected = {
                "port": str(primary.port),
                "flags": "master",
                "num-slaves": "2",
                "num-other-sentinels": "2",
            }
            return all(
                expected.items() <= _fields(sentinel.command("SENTINEL", "MASTER", SERVICE)).items()
                and b"s_down" not in sentinel.command("SENTINEL", "REPLICAS", SERVICE)
                for sentinel in self.sentinels
            )

        wait_for(all_agree, "the sentinels")

    def flush(self) -> None:
        self.primary().command("FLUSHALL")

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()

    def _sentinel(self, first: RedisServer) -> RedisServer:
        options = {
            "sentinel monitor": f"{SERVICE} {LOCAL} {first.port} 2",
            "sentinel down-after-milliseconds": f"{SERVICE} 500",
            "sentinel failover-timeout": f"{SERVICE} 1500",
            "sentinel parallel-syncs": f"{SERVICE} 2",
        }
        password = ""
        if self._sentinel_user:
            password = options["sentinel sentinel-pass"] = "between-sentinels"
            options |= self._sentinel_user
        sentinel = RedisServer(port=free_port(), password=password, options=options, sentinel=True)
        sentinel.begin()
        return sentinel


class ClusterGroup(Group):
    """A Cluster of three primaries and three replicas, which replaces a primary two seconds after it fails.

    `rights` are the rights of a user `director` with `password`; without them there is only the default user.
    """

    def __init__(self, *, rights: str = "", password: str = "") -> None:
        self.user = f"{USER}:{password}@" if rights else ""
        options = QUICK | _user(rights, password)
        options |= {
            "cluster-enabled": "yes",
            "cluster-node-timeout": "1500",
            "cluster-replica-validity-factor": "0",
        }
        buses = [free_port() for _ in range(6)]
        self.servers = [
            RedisServer(port=free_port(), options=options | {"cluster-port": str(bus)}) for bus in buses
        ]
        self._write_nodes(buses)

    @property
    def url(self) -> str:
        places = ",".join(f"{LOCAL}:{server.port}" for server in self.servers[::2])
        return f"redis+cluster://{self.user}{places}"

    def start(self) -> Self:
        """Start all servers, and wait until all slots are served."""
        for server in self.servers:
            server.begin()
        for server in self.servers:
            server.wait()
        self.wait_until_complete()
        return self

    def wait_until_complete(self) -> None:
        """Wait until every node says that all slots are served, and every primary has a replica that
        follows it."""
        wait_for(
            lambda: (
                all(b"cluster_state:ok" in server.command("CLUSTER", "INFO") for server in self.servers)
                and len(primaries := self.primaries()) == 3
                and all(b"state=online" in primary.command("INFO", "replication") for primary in primaries)
            ),
            "the cluster",
        )

    def primaries(self) -> list[RedisServer]:
        """Return the servers that say that they are primaries."""
        return [server for server in self.servers if server.running and _is_primary(server)]

    def keeper(self, key: str) -> RedisServer:
        """Return the primary that keeps this key."""
        (server,) = (
            server
            for server in self.primaries()
            if not server.command("EXISTS", key).startswith((b"-MOVED", b"-CLUSTERDOWN"))
        )
        return server

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """Return the replica of a primary."""
        port = f"master_port:{primary.port}\r".encode()
        (server,) = (server for server in self.servers if port in server.command("INFO", "replication"))
        return server

    def switch_to(self, replica: RedisServer) -> None:
        """Make a replica the primary at once, without a vote, and wait until it has a replica.

        All that its primary has at the time of the call is kept.
        """
        (primary,) = (server for server in self.primaries() if self.replica_of(server) is replica)
        written = _offset(primary, "master_repl_offset")
        wait_for(lambda: _offset(replica, "slave_repl_offset") >= written, "the replica to catch up")
        _ok(replica.command("CLUSTER", "FAILOVER", "TAKEOVER"))
        wait_for(lambda: replica in self.primaries(), "the switch")
        self.wait_until_complete()

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Begin to move a slot: from now on its keys may be on both nodes."""
        _ok(target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", _id(source)))
        _ok(source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", _id(target)))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, count: int) -> int:
        """Move at most `count` keys of a slot. Returns how many there were."""
        keys = _words(source.command("CLUSTER", "GETKEYSINSLOT", str(slot), str(count)))
        if keys:
            words = ("MIGRATE", LOCAL, str(target.port), "", "0", "5000", "KEYS", *keys)
            _ok(source.command(*words))
        return len(keys)

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """End the move of a slot: the target serves it."""
        for server in (target, source, *self.primaries()):
            _ok(server.command("CLUSTER", "SETSLOT", str(slot), "NODE", _id(target)))

    def flush(self) -> None:
        for server in self.primaries():
            server.command("FLUSHALL")

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def _write_nodes(self, buses: Sequence[int]) -> None:
        """Write the state of nodes that have always belonged to this Cluster: this is faster than joining
        them."""
        ids = [secrets.token_hex(20) for _ in self.servers]
        ranges = ["0-5460", "5461-10922", "10923-16383"]
        for me, server in enumerate(self.servers):
            lines = []
            for i, (other, bus) in enumerate(zip(self.servers, buses, strict=True)):
                if i < 3:
                    role = f"master - 0 0 {i + 1} connected {ranges[i]}"
                else:
                    role = f"slave {ids[i - 3]} 0 0 {i - 2} connected"
                myself = "myself," if i == me else ""
                lines.append(f"{ids[i]} {LOCAL}:{other.port}@{bus} {myself}{role}\n")
            lines.append("vars currentEpoch 6 lastVoteEpoch 0\n")
            (server.folder / "nodes.conf").write_text("".join(lines))


def slot_of(key: str) -> int:
    """Return the slot of a key."""
    return key_slot(key.encode())


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds. Raises AssertionError after START_WITHIN seconds."""
    deadline = time.monotonic() + START_WITHIN
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {START_WITHIN} s"
        time.sleep(0.02)


def _user(rights: str, password: str) -> dict[str, str]:
    return {"user": f"{USER} on >{password} {rights}"} if rights else {}


def _is_primary(server: RedisServer) -> bool:
    return b"role:master" in server.command("INFO", "replication")


def _offset(server: RedisServer, field: str) -> int:
    """Return how much of the data a primary or replica has."""
    found = re.search(rb"%b:([0-9]+)" % field.encode(), server.command("INFO", "replication"))
    assert found is not None, field
    return int(found[1])


def _id(server: RedisServer) -> str:
    return server.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()


def _fields(answer: bytes) -> dict[str, str]:
    words = _words(answer)
    return dict(zip(words[::2], words[1::2], strict=True))


def _words(answer: bytes) -> list[str]:
    return [word.decode() for word in answer.split(b"\r\n")[2::2]]


def _ok(answer: bytes) -> None:
    assert answer in (b"+OK\r\n", b"+NOKEY\r\n"), answer
