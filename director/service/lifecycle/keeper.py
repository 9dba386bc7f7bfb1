"""What a director does so that its login and userdb sockets and the notify FIFO outlive it.

At the start it takes over what the keeper of a director before it holds; while it runs it sees to it that a
keeper has copies; at its end it leaves the files to the keeper. Where the service manager has opened the
sockets no keeper is needed. docs/internals.md, "The keeper".
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio
import anyio.to_thread

from director.errors import EX_UNAVAILABLE, DirectorError, ListenError
from director.net import keeper, keeperlink, listen
from director.net.keeper import Kept
from director.net.keeperlink import KeeperConnection, KeeperError
from director.service.configuration.config import Config, ListenerConfig
from director.service.lifecycle.handover import HandedListener, KeeperLink
from director.service.lifecycle.sockets import Sockets
from director.service.log import Log

CONTROL_NAME = "director-keeper"
CHECK_EVERY = 1.0
"""Seconds between two checks whether the keeper is there."""
RETRY_LONGEST = 30.0
"""Seconds between two attempts to start one, at most."""
INIT = 1
"""Process id of the first process of a container: nothing in it outlives that."""


def control_paths(config: Config) -> list[str]:
    """Where the control socket of the keeper may be: the first of these in which a file can be made.

    The folder that matters least is last: it depends on a path that an operator may change.
    """
    listeners = config.listen
    paths = [
        listener.path for listener in (listeners.login, listeners.userdb, listeners.notify) if listener.path
    ]
    folders = [config.dovecot.base_dir, *map(os.path.dirname, paths[:1])]
    return [os.path.join(folder, CONTROL_NAME) for folder in dict.fromkeys(folders)]


class KeepError(DirectorError):
    """`director keep` cannot do its work."""

    exit_code = EX_UNAVAILABLE


class KeeperClient:
    """The director's dealings with its keeper. `with` it, and `holding` inside."""

    def __init__(
        self, config: Config, log: Log, link: KeeperLink | None = None, children: Sequence[int] = ()
    ) -> None:
        """link, children: what the program before, in the same process, has left."""
        self._paths, self._log = control_paths(config), log
        self._link: KeeperConnection | None = None
        if link is not None:
            self._link = KeeperConnection(socket.socket(fileno=link.descriptor), link.path, link.identity)
        self.children = list(children)
        """Process ids of keepers that this process has started and that have not ended yet."""
        self._given: list[Kept] = []
        """What the keeper has last been given; their descriptors may be closed by now."""
        self._all_from_units = False
        self._problem = ""
        """Why there is no keeper: logged once."""

    def __enter__(self) -> KeeperClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    @property
    def kept_by(self) -> str:
        """What holds the sockets when this director ends: `systemd`, `keeper`, or, empty, nothing does."""
        if self._link is not None:
            return "keeper"
        return "systemd" if self._all_from_units else ""

    def take(self) -> list[HandedListener]:
        """What the keeper of a director before holds: the caller closes it. From now on it is this one's."""
        found = self._first_keeper("serve")
        if found is None:
            return []
        (answer, connection), path = found
        if answer.busy:  # the director that serves is named when its sockets are opened
            connection.close()
            return []
        self._link = KeeperConnection(connection, path, keeper.identity_of(path))
        usable = _reachable(answer.kept)
        self._log.info(
            "sockets_taken_over",
            keeper=answer.process,
            listeners=",".join(entry.name for entry in usable),
            removed=",".join(entry.name for entry in answer.kept if entry not in usable) or None,
        )
        return [_listening(entry, owns_file=entry.owns_file) for entry in usable]

    def copies(self) -> list[HandedListener]:
        """The same for `serve --check`: the keeper, and the files, stay as they are."""
        found = self._first_keeper("copies")
        if found is None:
            return []
        (answer, connection), _ = found
        connection.close()
        if answer.busy:
            keeper.close_all([entry.descriptor for entry in answer.kept])
            return []
        return [_listening(entry, owns_file=False) for entry in answer.kept]

    @contextmanager
    def holding(self, sockets: Sockets) -> Iterator[None]:
        """Inside, a keeper has copies of what is open, unless none can be had. Behind it the files are left
        to the keeper, where there is one."""
        self._all_from_units = sockets.all_from_units()
        kept = sockets.to_keep()
        if not self._give(kept):
            self._renew(kept)
        try:
            yield
        finally:
            # once more: the FIFO may have been replaced just now
            if self._link is not None and self._give(sockets.to_keep()) and self._leave():
                sockets.leave_files([entry.name for entry in self._given])

    async def run(self, sockets: Sockets) -> None:
        """See to it that there is a keeper, until cancelled."""
        pause, retry_at = CHECK_EVERY, 0.0
        seen: list[keeper.Identity | None] = []
        while True:
            await anyio.sleep(CHECK_EVERY)
            self.children = [child for child in self.children if not keeperlink.has_ended(child)]
            kept = sockets.to_keep()
            if self._give(kept):
                pause, retry_at = CHECK_EVERY, 0.0
                continue
            # A keeper that is started elsewhere is found at once, whatever the pause.
            before, seen = seen, [keeper.identity_of(path) for path in self._paths]
            if anyio.current_time() < retry_at and seen == before:
                continue
            copies: list[Kept] = []
            try:
                copies += (entry._replace(descriptor=os.dup(entry.descriptor)) for entry in kept)
                # not on the loop: a keeper that is stopped answers only after some time, or not at all
                done = await anyio.to_thread.run_sync(self._renew, copies)
            except OSError as exc:  # no descriptor is free
                self._complain(exc.strerror or str(exc))
                done = False
            finally:
                keeper.close_all([entry.descriptor for entry in copies])
            pause = CHECK_EVERY if done else min(2 * pause, RETRY_LONGEST)
            retry_at = anyio.current_time() + pause

    def hand_over(self) -> KeeperLink | None:
        """For a successor: the connection stays open."""
        link, self._link = self._link, None
        if link is None:
            return None
        return KeeperLink(descriptor=link.connection.detach(), path=link.path, identity=link.identity)

    # ---- in a thread, too

    def _give(self, kept: Sequence[Kept]) -> bool:
        """Whether the keeper there is has all of this, or nothing is to be kept."""
        link = self._link
        if not kept:
            if link is not None:
                link.bye()
                self._link, self._given = None, []
            return True
        # Another base_dir since a replacement in place: the next director looks for the keeper there.
        if link is None or not (link.path in self._paths and link.is_open and link.is_current):
            return False
        if _without_descriptors(kept) != _without_descriptors(self._given):
            try:
                link.keep(kept)
            except KeeperError:
                return False
            self._given = list(kept)
        return True

    def _renew(self, kept: Sequence[Kept]) -> bool:
        """Find a keeper, or start one, and give it all. Whether that is done."""
        if not kept:
            return True
        before = self._link
        try:
            self._link = self._found(kept) or self._started(kept)
        except KeeperError as exc:
            if before is not None and not before.is_open:
                before.connection.close()
                self._link = None
            self._complain(str(exc))
            return False
        if before is not None:
            before.bye()
        self._given, self._problem = list(kept), ""
        return True

    def _found(self, kept: Sequence[Kept]) -> KeeperConnection | None:
        """The connection to a keeper that is there. Raises KeeperError."""
        for path in self._paths:
            reply = keeperlink.ask(path, "serve")
            if reply is None:
                continue
            answer, connection = reply
            keeper.close_all([entry.descriptor for entry in answer.kept])
            if answer.busy:
                connection.close()
                raise KeeperError(
                    f"{path}: keeper {answer.process} has another director; stop one of the two"
                )
            link = KeeperConnection(connection, path, keeper.identity_of(path))
            link.keep(kept)
            self._log.info("keeper_found", keeper=answer.process, standalone=answer.standalone)
            return link
        return None

    def _started(self, kept: Sequence[Kept]) -> KeeperConnection:
        """The connection to a new keeper. Raises KeeperError."""
        if os.getpid() == INIT:
            raise KeeperError(
                "this is process 1 of a container, which no other outlives; run `director keep` beside"
                " Dovecot"
            )
        problems = []
        for path in self._paths:
            try:
                link, child = keeperlink.start(path, kept)
            except KeeperError as exc:
                problems.append(str(exc))
                continue
            self.children.append(child)
            self._log.info(
                "keeper_started", keeper=child, socket=path, listeners=",".join(o.name for o in kept)
            )
            return link
        raise KeeperError("; ".join(problems))

    # ----

    def _first_keeper(self, what: str) -> tuple[tuple[keeperlink.KeeperAnswer, socket.socket], str] | None:
        for path in self._paths:
            try:
                reply = keeperlink.ask(path, what)
            except KeeperError as exc:
                self._complain(str(exc))
                continue
            if reply is not None:
                return reply, path
        return None

    def _leave(self) -> bool:
        """End in order. Whether a keeper goes on."""
        link, self._link = self._link, None
        if link is None:
            return False
        try:
            link.stopping()
        except KeeperError:
            return False
        finally:
            link.connection.close()
        return True

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            note = "login processes stall when this director ends; serving, and retrying"
            self._log.warning("keeper_failed", reason=problem, note=note)


def keep(config: Config, say: Callable[[str], object]) -> None:
    """`director keep`: hold the sockets in a process of their own, which this one becomes. Never returns.

    What a keeper holds that was started by a director is taken over; a director that runs notices within 1 s,
    and gives what it has. Otherwise the sockets are opened here: clients wait in them for the director. say:
    is called with what is held. Raises KeepError.
    """
    paths = control_paths(config)
    former, served, kept = _former_keeper(paths)
    # Before the sockets: a director that starts now asks here, and waits, instead of finding them taken.
    control, path = _new_control_socket(paths)
    names = () if served else (name for name in keeper.NAMES if name not in {entry.name for entry in kept})
    opened = [entry for name in names if (entry := _opened(name, config, say)) is not None]
    kept += [entry for entry in map(listen.to_keep, opened) if entry is not None]
    if former is not None:
        former.bye()
    what = ", ".join(entry.name for entry in kept) or "nothing until the director is found"
    say(f"holding {what}; process {os.getpid()}, control socket {path}")
    keeperlink.become(path, control, kept)


def _opened(name: str, config: Config, say: Callable[[str], object]) -> listen.Listener | listen.Fifo | None:
    """A listener, opened as a director would; None: it is off, or cannot be opened, and `say` is told why."""
    how: ListenerConfig = getattr(config.listen, name)
    if not how.path:
        return None
    make = listen.open_fifo if name == "notify" else listen.unix_listener
    try:
        return make(name, how.path, mode=how.mode, user=how.user, group=how.group)
    except ListenError as exc:
        say(f"{exc}; not held until the director that serves it is found")
        return None


def _new_control_socket(paths: Sequence[str]) -> tuple[socket.socket, str]:
    """At the first of the paths where one can be made. Raises KeepError."""
    problems = []
    for path in paths:
        try:
            listen.make_folder("keeper", path)
            return keeper.control_socket(path), path
        except OSError as exc:
            problems.append(f"{path}: {exc.strerror or exc}")
    raise KeepError(f"no control socket can be made: {'; '.join(problems)}")


def _former_keeper(paths: Sequence[str]) -> tuple[KeeperConnection | None, bool, list[Kept]]:
    """The connection to a keeper that runs already, whether a director serves what it holds, and, where none
    does, what that is. Raises KeepError."""
    for path in paths:
        try:
            if (reply := keeperlink.ask(path, "status")) is None:
                continue
            answer, connection = reply
            connection.close()
            if answer.standalone:
                raise KeepError(
                    f"{path}: a `director keep` runs already, process {answer.process}; stop that one first"
                )
            if (reply := keeperlink.ask(path, "serve")) is not None:
                answer, connection = reply
                return KeeperConnection(connection, path, None), answer.busy, _reachable(answer.kept)
        except KeeperError as exc:
            raise KeepError(str(exc)) from exc
    return None, False, []


def _reachable(kept: Sequence[Kept]) -> list[Kept]:
    """Those whose files are still at their paths; the others are closed."""
    found = [entry for entry in kept if keeper.identity_of(entry.path) == entry.identity]
    keeper.close_all([entry.descriptor for entry in kept if entry not in found])
    return found


def _listening(kept: Kept, *, owns_file: bool) -> HandedListener:
    return HandedListener(name=kept.name, where=kept.path, descriptor=kept.descriptor, owns_file=owns_file)


def _without_descriptors(kept: Sequence[Kept]) -> list[Kept]:
    return [entry._replace(descriptor=-1) for entry in kept]
