"""The cost of the seals of ring frames: `python -m tests.bench.seals`.

First the microseconds to make and to read one frame, plain and sealed. Then new users at one of three
directors, with links as they are and with links without seals (`plain_links`, which no release has), without
TLS and over it, asked in random order, round by round. Needs a C compiler.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from director.core.placement.names import entry
from director.core.protocol.messages import Names, RingMessage, Users
from director.types import UserKey
from director.wire.ring_native import LIMIT, SEAL, FrameReader, FrameWriter, encode
from tests.bench.__main__ import LOADS, Bench, Load, Sample, show
from tests.certificates import Authority

KEY = bytes(range(32))
USERS = (1, 10, 100, 1000, 10_000)
BEST_OF = 9
BYTES = 2_000_000
"""Bytes that are put into frames in each measurement."""
SYSTEMS = {"plain": ("tests.bench.plain_links", False), "sealed": ("director", False)}
OVER_TLS = {"plain, TLS": ("tests.bench.plain_links", True), "sealed, TLS": ("director", True)}
TLS = 'tls = {{{{cert = "{0}/{{address}}.1.crt", key = "{0}/{{address}}.1.key", ca = "{0}/ca.crt"}}}}'


def frame_of(users: int) -> list[RingMessage]:
    """Return the messages that a director sends of new users: their records, and to the right neighbour
    their names."""
    return [Users(bytes(22 * users)), Names(entry(UserKey(1), b"user@example.com") * users, 2)]


def microseconds(times: int, begin: Callable[[], Callable[[], None]]) -> float:
    """Return the microseconds of the fastest call. `begin` makes the function that is called `times`
    times."""
    best = float("inf")
    for _ in range(BEST_OF):
        call = begin()
        begun = time.thread_time()
        for _ in range(times):
            call()
        best = min(best, time.thread_time() - begun)
    return best / times * 1e6


def writing(messages: list[RingMessage], *, sealed: bool) -> Callable[[], None]:
    writer = FrameWriter()
    if sealed:
        writer.seal(KEY)

    def write() -> None:
        writer.encode(messages)

    return write


def reading(messages: list[RingMessage], times: int, *, sealed: bool) -> Callable[[], None]:
    writer, reader = FrameWriter(), FrameReader()
    reader.limit = LIMIT
    if sealed:
        reader.unseal(KEY)
        list(reader.feed(encode([])))
        writer.seal(KEY)
    frames = [writer.encode(messages) for _ in range(times)]
    frames.reverse()

    def read() -> None:
        for _ in reader.feed(frames.pop()):
            pass

    return read


def measure_frames() -> None:
    print(f"microseconds of CPU a frame, best of {BEST_OF}; a seal is {SEAL} bytes")
    print(f"{'users':>7}{'bytes':>9}{'write, plain':>14}{'sealed':>9}{'read, plain':>14}{'sealed':>9}")
    for users in USERS:
        messages = frame_of(users)
        size = len(encode(messages))
        times = max(20, min(20_000, BYTES // size))
        figures = []
        for sealed in (False, True):
            figures += [
                microseconds(times, partial(writing, messages, sealed=sealed)),
                microseconds(times, partial(reading, messages, times, sealed=sealed)),
            ]
        write, read, write_sealed, read_sealed = figures
        print(f"{users:>7}{size:>9}{write:>14.2f}{write_sealed:>9.2f}{read:>14.2f}{read_sealed:>9.2f}")


def measure_rings(runs: int, scale: float, systems: dict[str, tuple[str, bool]]) -> None:
    with tempfile.TemporaryDirectory(prefix="seals") as name, ExitStack() as stack:
        folder = Path(name)
        bench, authority = Bench(folder, stack), Authority(folder)
        rings = []
        for number, (system, (program, over_tls)) in enumerate(systems.items()):
            network = 27 + number
            for last in (1, 2, 3):
                authority.pems(f"127.0.{network}.{last}")
            tls = TLS.format(folder) if over_tls else ""
            rings.append(bench.directors(3, "memory:", system, network, program=program, tls=tls))
        for load in LOADS:
            size = Load(load.name, int(load.requests * scale), load.connections, load.window)
            for ring in rings:
                bench.measure(ring, Load("", max(1000, size.requests // 20), 1, 16))
            samples: dict[str, list[Sample]] = {ring.name: [] for ring in rings}
            for turn in range(runs):
                for ring in random.sample(rings, len(rings)):
                    samples[ring.name].append(bench.measure(ring, size))
                print(f"{load.name}: round {turn + 1} of {runs}", file=sys.stderr)
            show("ring of three, all to one", size, samples, base=next(iter(systems)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7, help="0: frames only")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual number of requests")
    options = parser.parse_args()
    measure_frames()
    if options.runs:
        measure_rings(options.runs, options.scale, SYSTEMS)
        measure_rings(options.runs, options.scale, OVER_TLS)


if __name__ == "__main__":
    main()
