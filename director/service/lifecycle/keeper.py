"""Keeps the login and userdb sockets and the notify FIFO open beyond the end of the director.

At its start a director takes over the sockets that the keeper of a former director holds. While it runs, it
makes sure that a keeper has copies. At its end it leaves the files to the keeper. If the service manager has
opened the sockets, no keeper is needed. docs/internals.md, "The keeper".
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

KEEPER_NOTE = "this process keeps the sockets to Dovecot open while no director runs"
TAKEN_OVER_NOTE = "a keeper held them since the last director; sockets in `removed` are opened again"
CONTROL_NAME = "director-keeper"
CHECK_EVERY = 1.0
"""Seconds between two checks of the keeper."""
RETRY_LONGEST = 30.0
"""Seconds between two attempts to start a keeper, at most."""
INIT = 1
"""Process id of the first process of a container. When it ends, all other processes end."""


def control_paths(config: Config) -> list[str]:
    """Return the possible paths of the keeper's control socket. The first usable path is taken.

    The path that depends on `listen` comes last, because an operator may change it.
    """
    listeners = config.listen
    paths = [
        listener.path for listener in (listeners.login, listeners.userdb, listeners.notify) if listener.path
    ]
    folders = [config.dovecot.base_dir, *map(os.path.dirname, paths[:1])]
    return [os.path.join(folder, CONTROL_NAME) for folder in dict.fromkeys(folders)]


class KeepError(DirectorError):
    """`director keep` cannot hold the sockets."""

    exit_code = EX_UNAVAILABLE


class KeeperClient:
    """The director's connection with its keeper. Use it in a `with` block, and `holding` inside."""

    def __init__(
        self, config: Config, log: Log, link: KeeperLink | None = None, children: Sequence[int] = ()
    ) -> None:
        """link, children: the state that a predecessor in this process has left."""
        self._paths, self._log = control_paths(config), log
        self._link: KeeperConnection | None = None
        if link is not None:
            self._link = KeeperConnection(socket.socket(fileno=link.descriptor), link.path, link.identity)
        self.children = list(children)
        """Process ids of keepers that this process has started and that have not ended yet."""
        self._given: list[Kept] = []
        """The sockets that the keeper was given last. Their descriptors may be closed by now."""
        self._all_from_units = False
        self._problem = ""
        """Why there is no keeper; logged once."""

    def __enter__(self) -> KeeperClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    @property
    def kept_by(self) -> str:
        """The holder of the sockets after this director ends: `systemd`, `keeper`, or empty for none."""
        if self._link is not None:
            return "keeper"
        return "systemd" if self._all_from_units else ""

    def take(self) -> list[HandedListener]:
        """Return the sockets that the keeper of a former director holds, and become the keeper's director.

        The caller closes the sockets.
        """
        found = self._first_keeper("serve")
        if found is None:
            return []
        (answer, connection), path = found
        if answer.busy:  # opening the sockets fails later, with a message that names the other director
            connection.close()
            return []
        self._link = KeeperConnection(connection, path, keeper.identity_of(path))
        usable = _reachable(answer.kept)
        self._log.info(
            "sockets_taken_over",
            keeper=answer.process,
            listeners=",".join(entry.name for entry in usable),
            removed=",".join(entry.name for entry in answer.kept if entry not in usable) or None,
            note=TAKEN_OVER_NOTE,
        )
        return [_listening(entry, owns_file=entry.owns_file) for entry in usable]

    def copies(self) -> list[HandedListener]:
        """Return the same as `take`, for `serve --check`: keeper and files are not changed."""
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
        """Give a keeper copies of the open sockets, if there is or can be one, while the block runs.

        After the block the files are left to the keeper.
        """
        self._all_from_units = sockets.all_from_units()
        kept = sockets.to_keep()
        if not self._give(kept):
            self._renew(kept)
        try:
            yield
        finally:
            # Again, because the FIFO may have been replaced since the last check.
            if self._link is not None and self._give(sockets.to_keep()) and self._leave():
                sockets.leave_files([entry.name for entry in self._given])

    async def run(self, sockets: Sockets) -> None:
        """Check every second that a keeper has the sockets, and start one if not, until cancelled."""
        pause, retry_at = CHECK_EVERY, 0.0
        seen: list[keeper.Identity | None] = []
        while True:
            await anyio.sleep(CHECK_EVERY)
            self.children = [child for child in self.children if not keeperlink.has_ended(child)]
            kept = sockets.to_keep()
            if self._give(kept):
                pause, retry_at = CHECK_EVERY, 0.0
                continue
            # A keeper that was started by hand is found at once, whatever the pause.
            before, seen = seen, [keeper.identity_of(path) for path in self._paths]
            if anyio.current_time() < retry_at and seen == before:
                continue
            copies: list[Kept] = []
            try:
                copies += (entry._replace(descriptor=os.dup(entry.descriptor)) for entry in kept)
                # In a thread, because a stopped keeper answers late or not at all.
                done = await anyio.to_thread.run_sync(self._renew, copies)
            except OSError as exc:  # no free descriptor
                self._complain(exc.strerror or str(exc))
                done = False
            finally:
                keeper.close_all([entry.descriptor for entry in copies])
            pause = CHECK_EVERY if done else min(2 * pause, RETRY_LONGEST)
            retry_at = anyio.current_time() + pause

    def hand_over(self) -> KeeperLink | None:
        """Return the connection for a successor. It stays open."""
        link, self._link = self._link, None
        if link is None:
            return None
        return KeeperLink(descriptor=link.connection.detach(), path=link.path, identity=link.identity)

    # ---- also called in a thread

    def _give(self, kept: Sequence[Kept]) -> bool:
        """Give the sockets to the present keeper. Returns whether it has all that are to be kept."""
        link = self._link
        if not kept:
            if link is not None:
                link.bye()
                self._link, self._given = None, []
            return True
        # A replacement in place may have changed base_dir, where the next director looks for the keeper.
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
        """Find or start a keeper and give it the sockets. Returns whether that succeeded."""
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
        """Return the connection to a keeper that runs already; None if there is none. Raises KeeperError."""
        for path in self._paths:
            reply = keeperlink.ask(path, "serve")
            if reply is None:
                continue
            answer, connection = reply
            keeper.close_all([entry.descriptor for entry in answer.kept])
            if answer.busy:
                connection.close()
                raise KeeperError(
                    f"{path}: keeper {answer.process} serves another director; stop one of the two directors"
                )
            link = KeeperConnection(connection, path, keeper.identity_of(path))
            link.keep(kept)
            self._log.info(
                "keeper_found", keeper=answer.process, standalone=answer.standalone, note=KEEPER_NOTE
            )
            return link
        return None

    def _started(self, kept: Sequence[Kept]) -> KeeperConnection:
        """Start a keeper and return the connection to it. Raises KeeperError."""
        if os.getpid() == INIT:
            raise KeeperError(
                "this director is process 1 of a container, and a keeper would end with it; run `director"
                " keep` beside Dovecot"
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
                "keeper_started",
                keeper=child,
                socket=path,
                listeners=",".join(o.name for o in kept),
                note=KEEPER_NOTE,
            )
            return link
        raise KeeperError("; ".join(problems))

    # ---- beginning and end

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
        """Tell the keeper that this director stops. Returns whether the keeper continues."""
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
            note = "login processes would stall while no director runs; retrying"
            self._log.warning("keeper_failed", reason=problem, note=note)


def keep(config: Config, say: Callable[[str], object]) -> None:
    """Run `director keep`: become a process that holds the sockets. Does not return.

    Sockets of a keeper that a director started are taken over. A running director notices this keeper within
    1 s and gives it its sockets. If there is no such keeper, the sockets are opened here, and clients wait in
    them for the director.

    Args:
        say: called with messages for the operator.

    Raises KeepError.
    """
    paths = control_paths(config)
    former, served, kept = _former_keeper(paths)
    # Before the sockets: a director that starts now asks here and waits, and does not find them in use.
    control, path = _new_control_socket(paths)
    names = () if served else (name for name in keeper.NAMES if name not in {entry.name for entry in kept})
    opened = [entry for name in names if (entry := _opened(name, config, say)) is not None]
    kept += [entry for entry in map(listen.to_keep, opened) if entry is not None]
    if former is not None:
        former.bye()
    what = ", ".join(entry.name for entry in kept) or "no socket until a director connects"
    say(f"holding {what}; process {os.getpid()}, control socket {path}")
    keeperlink.become(path, control, kept)


def _opened(name: str, config: Config, say: Callable[[str], object]) -> listen.Listener | listen.Fifo | None:
    """Open a listener as a director would. None: it is off, or `say` was told why it cannot be opened."""
    how: ListenerConfig = getattr(config.listen, name)
    if not how.path:
        return None
    make = listen.open_fifo if name == "notify" else listen.unix_listener
    try:
        return make(name, how.path, mode=how.mode, user=how.user, group=how.group)
    except ListenError as exc:
        say(f"{exc}; not held until the director that serves it connects")
        return None


def _new_control_socket(paths: Sequence[str]) -> tuple[socket.socket, str]:
    """Return a control socket at the first possible path, and the path. Raises KeepError."""
    problems = []
    for path in paths:
        try:
            listen.make_folder("keeper", path)
            return keeper.control_socket(path), path
        except OSError as exc:
            problems.append(f"{path}: {exc.strerror or exc}")
    raise KeepError(f"cannot create a control socket: {'; '.join(problems)}")


def _former_keeper(paths: Sequence[str]) -> tuple[KeeperConnection | None, bool, list[Kept]]:
    """Ask for a keeper that runs already.

    Returns its connection, whether a director serves its sockets, and the sockets if no director does. Raises
    KeepError.
    """
    for path in paths:
        try:
            if (reply := keeperlink.ask(path, "status")) is None:
                continue
            answer, connection = reply
            connection.close()
            if answer.standalone:
                raise KeepError(
                    f"{path}: `director keep` runs already (process {answer.process}); stop it first"
                )
            if (reply := keeperlink.ask(path, "serve")) is not None:
                answer, connection = reply
                return KeeperConnection(connection, path, None), answer.busy, _reachable(answer.kept)
        except KeeperError as exc:
            raise KeepError(str(exc)) from exc
    return None, False, []


def _reachable(kept: Sequence[Kept]) -> list[Kept]:
    """Return the sockets whose files are still at their paths, and close the others."""
    found = [entry for entry in kept if keeper.identity_of(entry.path) == entry.identity]
    keeper.close_all([entry.descriptor for entry in kept if entry not in found])
    return found


def _listening(kept: Kept, *, owns_file: bool) -> HandedListener:
    return HandedListener(name=kept.name, where=kept.path, descriptor=kept.descriptor, owns_file=owns_file)


def _without_descriptors(kept: Sequence[Kept]) -> list[Kept]:
    return [entry._replace(descriptor=-1) for entry in kept]
