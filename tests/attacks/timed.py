"""`python -m tests.attacks.timed FILE serve ...`: the director on asyncio's own loop, with each turn timed.

FILE gets the longest turns: CPU seconds of the loop's thread, which other processes do not change, and what
ran in each. Only the longest turns are described, so that the measuring makes no turn longer.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.events
import atexit
import gc
import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

SHOWN = 20
"""The number of turns that are listed."""

longest: list[tuple[float, int, list[str]]] = []
ran: list[tuple[float, Callable[[], str]]] = []
"""Seconds of each callback, and its description."""
turns = 0


def timed_turn(turn: Callable[..., None]) -> Callable[..., None]:
    def run(loop: Any) -> None:
        global turns
        turns += 1
        ran.clear()
        begun = time.thread_time()
        turn(loop)
        took = time.thread_time() - begun
        if len(longest) < SHOWN or took > longest[0][0]:
            most = sorted(ran, key=itemgetter(0), reverse=True)[:6]
            parts = [f"{1000 * seconds:.1f} {what()}" for seconds, what in most]
            heapq.heappush(longest, (took, turns, [*parts, f"{len(ran)} callbacks"]))
            if len(longest) > SHOWN:
                heapq.heappop(longest)

    return run


def timed_callback(callback: Callable[..., None]) -> Callable[..., None]:
    def run(handle: Any) -> None:
        what = handle._callback
        begun = time.thread_time()
        callback(handle)
        ran.append((time.thread_time() - begun, lambda: _described(what)))

    return run


def timed_event(handle: Callable[..., Any]) -> Callable[..., Any]:
    def run(core: Any, event: Any, now: Any, **options: Any) -> Any:
        begun = time.thread_time()
        effects = handle(core, event, now, **options)
        ran.append((time.thread_time() - begun, lambda: _named(event, effects)))
        return effects

    return run


def _described(callback: Any) -> str:
    """Return a callback as text, with its coroutine if it continues a task."""
    task = getattr(callback, "__self__", None)
    return repr(task.get_coro() if isinstance(task, asyncio.Task) else callback)[:160]


def _named(event: Any, effects: Any) -> str:
    messages = [type(message).__name__ for message in getattr(event, "messages", ())]
    kinds = Counter(type(effect).__name__ for effect in effects)
    return f"core: {type(event).__name__} {messages}, {dict(kinds)}"


def timed_collection() -> Callable[[str, dict[str, int]], None]:
    began = 0.0

    def run(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            ran.append((time.thread_time() - began, lambda: f"garbage collection: {info}"))

    return run


def main() -> None:
    file = Path(sys.argv.pop(1))
    import anyio

    from director.core.director import Director

    run = anyio.run
    anyio.run = lambda *args, **options: run(*args)  # type: ignore[assignment]
    loop, handle = asyncio.base_events.BaseEventLoop, asyncio.events.Handle
    loop._run_once = timed_turn(loop._run_once)  # type: ignore[attr-defined]
    handle._run = timed_callback(handle._run)  # type: ignore[method-assign]
    Director.handle = timed_event(Director.handle)  # type: ignore[method-assign]
    gc.callbacks.append(timed_collection())
    atexit.register(lambda: file.write_text(json.dumps(sorted(longest, reverse=True))))
    from director.cli.main import main as director

    director()


if __name__ == "__main__":
    main()
