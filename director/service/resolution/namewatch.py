"""Names that are resolved again and again while the director runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext

import anyio

from director.core.placement.addresses import canonical
from director.service.configuration.servers import one_machine
from director.types import Address
from state.resolver import Resolver

EVERY = 5.0
"""Seconds between two rounds of look-ups."""
AT_MOST_EVERY = 1.0
"""Seconds between two rounds after a call of `soon`, at least."""
TIMEOUT = 2.0
"""Seconds that a round waits for the slowest name."""
AT_A_TIME = 8
"""Unanswered look-ups that a round may have begun."""

Answer = tuple[Address, ...] | str
"""The addresses of a name, at least one; or why they are unknown."""


async def answer_of(name: str, resolver: Resolver) -> Answer:
    """Resolve one name. The caller sets a time-out."""
    try:
        found = await resolver.addresses(name)
        return (
            tuple(dict.fromkeys(one_machine(canonical(address)) for address in found)) or "it has no address"
        )
    except (OSError, ValueError) as exc:
        return getattr(exc, "strerror", None) or str(exc)


class NameWatch:
    """Resolves all names every few seconds, and passes on the answers."""

    def __init__(
        self,
        names: Callable[[], Iterable[str]],
        answered: Callable[[Mapping[str, Answer]], None],
        resolver: Resolver,
    ) -> None:
        """
        Args:
            names: returns the names to resolve.
            answered: called after each round with an answer for each name.
        """
        self._names, self._answered, self._resolver = names, answered, resolver
        self._wanted = anyio.Event()

    async def run(self) -> None:
        """Resolve again and again until cancelled."""
        while True:
            await anyio.sleep(AT_MOST_EVERY)
            with anyio.move_on_after(EVERY - AT_MOST_EVERY):
                await self._wanted.wait()
            self._wanted = anyio.Event()
            await self.resolve_all()

    def soon(self) -> None:
        """Start a round soon, because a changed address may explain what was seen."""
        self._wanted.set()

    async def resolve_all(self) -> None:
        """Resolve every name once. A name without an answer delays no other name, now or in later rounds."""
        names = list(dict.fromkeys(self._names()))
        if not names:
            return
        answers: dict[str, Answer] = {}
        free = anyio.Semaphore(AT_A_TIME)

        async def ask(name: str, new: bool) -> None:
            async with free if new else nullcontext():
                answers[name] = await answer_of(name, self._resolver)

        with anyio.move_on_after(TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(ask, name, not self._resolver.is_asking(name))
        late = f"no answer within {TIMEOUT:.0f} s"
        self._answered({name: answers.get(name, late) for name in names})
