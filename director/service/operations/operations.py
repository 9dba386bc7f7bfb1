"""Queries and commands of operators, for the admin socket, the web API and the metrics.

Each command is defined once, in one of the classes used here; `web` and `endpoints.admin` call it.
"""

from __future__ import annotations

from collections.abc import Callable

from director.core.director import Director
from director.core.placement.hashing import UserHash
from director.records import ReloadInfo
from director.service.internalerrors import InternalErrors
from director.service.lifecycle.credentials import Credentials
from director.service.lifecycle.listeners import Listeners
from director.service.lifecycle.replacement import Replacement
from director.service.logwriter import LogWriter
from director.service.loopwatch import LoopWatch
from director.service.metrics import Counted, LookupCounts
from director.service.operations.audit import Audit
from director.service.operations.hostinfo import HostInfos
from director.service.operations.hosts import HostOperations
from director.service.operations.knownusers import KnownUsers
from director.service.operations.metricspage import MetricsPage
from director.service.operations.pools import Pools
from director.service.operations.queries import Queries
from director.service.operations.ring import RingOperations
from director.service.operations.ringinfo import RingInfos
from director.service.operations.trackedjobs import TrackedJobs
from director.service.operations.users import UserOperations
from director.service.pendingoperations import PendingOperations
from director.service.persistence.persist import Persistence
from director.service.ringsockets import RingSockets
from state.resolver import Resolver


class Operations:
    def __init__(
        self,
        director: Director,
        pending_operations: PendingOperations,
        ring: RingSockets,
        persistence: Persistence,
        user_hash: UserHash,
        *,
        lookups: LookupCounts,
        watch: LoopWatch,
        internal_errors: InternalErrors,
        reloads: Replacement,
        resolver: Resolver,
        started: float,
        warm_seconds: Callable[[], float] = lambda: 0.0,
        credentials: Credentials | None = None,
        listeners: Listeners | None = None,
        sockets_kept_by: Callable[[], str] = str,
        before: Counted | None = None,
        log_writer: LogWriter | None = None,
    ) -> None:
        """
        Args:
            started: Unix seconds.
            sockets_kept_by: as in StatusInfo.

        The remaining arguments: as in `MetricsPage`.
        """
        unstored = persistence.unstored
        self._me, self._reloads = director.me, reloads
        self._audit = Audit(director.me, persistence)
        infos, ring_infos = HostInfos(director), RingInfos(director, ring)
        known = KnownUsers(director, user_hash)
        pools = Pools(director.hosts, infos.counts)
        self.jobs = TrackedJobs(director, pending_operations, unstored, self._audit)
        self.users = UserOperations(
            director, pending_operations, self.jobs, known, pools, unstored, self._audit
        )
        self.hosts = HostOperations(
            director, pending_operations, self.jobs, infos, pools, unstored, self._audit
        )
        self.ring = RingOperations(director, pending_operations, ring_infos, unstored, self._audit, resolver)
        self.queries = Queries(
            director,
            persistence,
            infos,
            ring_infos,
            known,
            started=started,
            sockets_kept_by=sockets_kept_by,
            credentials=credentials,
            reloads=reloads,
        )
        self.metrics = MetricsPage(
            director=director,
            ring=ring,
            persistence=persistence,
            infos=infos,
            ring_infos=ring_infos,
            lookups=lookups,
            watch=watch,
            internal_errors=internal_errors,
            credentials=credentials,
            listeners=listeners,
            sockets_kept_by=sockets_kept_by,
            warm_seconds=warm_seconds,
            before=before,
            log_writer=log_writer,
        )

    # ---- the program

    def reload_info(self) -> ReloadInfo:
        """Return the result of the last reload of this director."""
        return self._reloads.info()

    async def reload(self, *, exec: bool, reason: str, dry_run: bool = False) -> ReloadInfo:
        """Read the configuration again.

        Args:
            exec: replace the program in place. The method returns before the successor runs.
        """
        info = await self._reloads.ask(exec=exec, dry_run=dry_run)
        if not dry_run:
            detail = info.problem or " ".join(info.applied)
            self._audit.add("reload --exec" if exec else "reload", self._me, reason, detail)
        return info
