"""Documents with thousands of rows: the turns of the loop in which they are read are short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from director.core.filechanges import AppliedHost, encode_applied
from director.core.protocol.messages import HostRow
from director.core.protocol.steps import Steps
from director.core.tables.documentrows import STEP
from director.core.tables.hosts import encode_rows
from director.service.log import Log
from director.service.persistence.storecaller import StoreCaller
from director.stored.damage import Table
from director.stored.documents import Sound, applied_documents_in_steps, hosts_in_steps
from director.stored.storecalls import Copy, Procedure
from director.stored.tabledocuments import TableDocument
from state.base import EMPTY_VERSION
from state.urls import open_store
from tests.steps import FIVE_MS, counted

ROWS = [HostRow(f"10.9.{n >> 8}.{n & 255}", "", True, 5, "", 5, 100, 5, True, 5) for n in range(3000)]
HOSTS = encode_rows(ROWS)
APPLIED = encode_applied({"10.0.0.1:9090": [AppliedHost(row.address, True, 5) for row in ROWS]})


@pytest.mark.shows("A-44")
@pytest.mark.parametrize("read", [lambda: hosts_in_steps(HOSTS), lambda: applied_documents_in_steps(APPLIED)])
def test_no_step_of_reading_a_document_is_long_however_many_rows_it_has(
    read: Callable[[], Steps[object]],
) -> None:
    steps, reading, goes_on = [], read(), True

    def step() -> bool:
        try:
            next(reading)
        except StopIteration:
            return False
        return True

    while goes_on:
        goes_on, took = counted(step)
        steps.append(took)
    assert max(steps) < FIVE_MS
    assert sum(steps) > 2 * FIVE_MS


@pytest.mark.shows("A-44")
@pytest.mark.anyio
async def test_a_sound_document_is_read_once_and_other_work_goes_on_meanwhile(tmp_path: Path) -> None:
    store = open_store("sqlite:///state.db", base_dir=tmp_path)
    await store.open()
    await store.swap_document("hosts", EMPTY_VERSION, HOSTS)
    readings, merged, turns = 0, list[Sound](), 0

    def read(data: bytes, others: Sequence[bytes]) -> Steps[Sound]:
        nonlocal readings
        readings += 1
        return hosts_in_steps(data, others)

    def copies(name: str) -> Procedure[list[Copy]]:
        return []
        yield

    async def other_work() -> None:
        nonlocal turns
        while not merged:
            turns += bool(readings)
            await anyio.lowlevel.checkpoint()

    table = Table("hosts", lambda: HOSTS, read, lambda found, source: merged.append(found))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other_work)
        caller = StoreCaller(store, lambda event: None, Log(write=lambda line: None))
        await caller.carried_out(TableDocument(table, copies).read())
    await store.close()
    assert (readings, merged[0].hosts) == (1, ROWS)
    assert turns >= len(ROWS) // STEP
