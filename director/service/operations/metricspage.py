"""The metrics page, put together from the counters of all parts of the director."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

import anyio.to_thread

from director.core.director import Director
from director.records import HostInfo
from director.service.internalerrors import InternalErrors
from director.service.lifecycle.credentials import Credentials
from director.service.lifecycle.listeners import Listeners
from director.service.logwriter import LogWriter
from director.service.loopwatch import LoopWatch
from director.service.metrics import (
    Counted,
    Durations,
    HostSample,
    LookupCounts,
    MetricsSample,
    carry_on,
    counted,
    render,
)
from director.service.operations.alarms import differing
from director.service.operations.hostinfo import HostInfos
from director.service.operations.ringinfo import RingInfos
from director.service.persistence.persist import Persistence
from director.service.ringsockets import RingSockets
from director.version import VERSION
from director.wire import hotpath


class MetricsPage:
    def __init__(
        self,
        *,
        director: Director,
        ring: RingSockets,
        persistence: Persistence,
        infos: HostInfos,
        ring_infos: RingInfos,
        lookups: LookupCounts,
        watch: LoopWatch,
        internal_errors: InternalErrors,
        credentials: Credentials | None = None,
        listeners: Listeners | None = None,
        sockets_kept_by: Callable[[], str],
        warm_seconds: Callable[[], float],
        before: Counted | None = None,
        log_writer: LogWriter | None = None,
    ) -> None:
        """
        Args:
            before: the counts of predecessors in this process.
            warm_seconds: returns the seconds from the start until logins were answered.
        """
        self._director, self._ring, self._persistence = director, ring, persistence
        self._infos, self._ring_infos = infos, ring_infos
        self._lookups, self._watch, self._internal_errors = lookups, watch, internal_errors
        self._credentials, self._listeners = credentials, listeners
        self._sockets_kept_by, self._warm_seconds = sockets_kept_by, warm_seconds
        self._before = before or Counted()
        self._log_writer = log_writer
        self._log_dropped_before = log_writer.dropped if log_writer else 0
        self._syncs, self._kicks = Durations(), Durations()

    async def page(self) -> bytes:
        """Return the page in the text format of Prometheus."""
        # In a thread, because with thousands of hosts the page is long.
        return await anyio.to_thread.run_sync(render, self._snapshot(await self._infos.all()))

    def counted(self) -> Counted:
        """Return the counts for a successor."""
        return counted(self._snapshot([]))

    def _snapshot(self, hosts: Sequence[HostInfo]) -> MetricsSample:
        director, persistence, listeners = self._director, self._persistence, self._listeners
        users: dict[str, int] = {}
        for host in hosts:
            users[host.tag] = users.get(host.tag, 0) + host.users
        ring = self._ring_infos.ring()
        while director.barrier.durations:
            self._syncs.add(director.barrier.durations.popleft())
        while director.kicks.durations:
            self._kicks.add(director.kicks.durations.popleft())
        counters, snapshot = director.counters, persistence.info().snapshot
        page = MetricsSample(
            version=VERSION,
            python=platform.python_version(),
            compiled=hotpath.COMPILED,
            lookups=dict(self._lookups.counts),
            users=users,
            hosts=[HostSample(h.address, h.tag, h.up and h.weight > 0, h.weight, h.users) for h in hosts],
            conflicts=counters.conflicts,
            false_departures=counters.false_departures,
            stamps_clipped=dict(counters.stamps_clipped),
            moves={
                "moved": counters.moves_done,
                "superseded": counters.moves_superseded,
                "timed_out": counters.moves_timed_out,
            },
            moves_in_progress=len(director.moves),
            flush_programs={
                "done": counters.programs_done,
                "failed": counters.programs_failed,
                "stopped": counters.programs_stopped,
            },
            kicks={
                "done": counters.kicks_done,
                "failed": counters.kicks_failed,
                "timed_out": counters.kicks_timed_out,
            },
            sessions_kicked=counters.sessions_kicked,
            kick_durations=self._kicks,
            near_expiry_rounds=counters.near_rounds,
            claims=counters.claims,
            waiting_refused=counters.waiting_refused,
            not_remembered=director.assigner.not_remembered,
            dropped_early=counters.dropped_early,
            users_limit=director.barrier.limit,
            ring_members={"in_ring": len(ring.ring), "missing": len(ring.missing)},
            ring_synced=ring.synced,
            ring_syncs=self._syncs,
            ring_messages={
                **{(kind, "in"): count for kind, count in counters.messages_in.items()},
                **{(kind, "out"): count for kind, count in self._ring.messages_out.items()},
            },
            ring_forged={"frame": self._ring.frames_forged, "proof": counters.proofs_refused},
            certificate_ends=self._credentials.seen.ends if self._credentials else {},
            secrets_readable=len(self._credentials.seen.readable) if self._credentials else 0,
            files_unusable=len(self._credentials.seen.unusable) if self._credentials else 0,
            differences={what: len(members) for what, members in differing(director).items()},
            unstored=len(persistence.unstored.changes()),
            store_up=persistence.up,
            store_queue=persistence.queued,
            store_lag=persistence.lag,
            store_errors=dict(persistence.errors),
            store_swept=dict(persistence.sweeping.swept),
            store_sweeper=persistence.sweeping.holds,
            snapshot_up=snapshot.up if snapshot else None,
            snapshot_written=snapshot.written if snapshot else None,
            sockets_kept=bool(self._sockets_kept_by()),
            warm_start_seconds=self._warm_seconds(),
            warm_start_users=persistence.loaded_users,
            warm_start_part=persistence.loaded_part,
            clock_skew={n.name(): n.skew for n in director.ring.live_links()},
            accept_pauses=dict(listeners.pauses) if listeners else {},
            connections_refused=dict(listeners.refused) if listeners else {},
            connections=listeners.connections() if listeners else {},
            internal_errors=self._internal_errors.count,
            log_dropped=self._log_writer.dropped - self._log_dropped_before if self._log_writer else 0,
            loop_lag=self._watch.take_lag(),
        )
        carry_on(page, self._before)
        return page
