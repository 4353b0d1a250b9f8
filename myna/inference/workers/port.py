"""The port between a pool and a place where its workers run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from myna.inference.workers.ipc import Hello, Message


class Worker(Protocol):
    """One run of an engine worker: call `launch` once, then iterate over `messages` until the worker is gone."""

    @property
    def pid(self) -> int | None:
        """Process id on this host; None if there is no such process."""
        ...

    @property
    def heard_at(self) -> float:
        """Time of the worker's last message, on the front's clock."""
        ...

    @property
    def busy_s(self) -> tuple[float, ...]:
        """For each lane, the seconds spent on its current batch, as of the worker's last status; 0 if it is idle."""
        ...

    async def launch(self) -> Hello:
        """Start the worker and wait until its engines are loaded.

        Raises `EngineUnavailableError`; the worker is gone then.
        """
        ...

    def send(self, message: Message) -> None:
        """Send a message without waiting. A worker that is gone loses it."""
        ...

    def messages(self) -> AsyncGenerator[Message]:
        """Yield the worker's messages, except its status, until it is gone. Raises `ValueError` for malformed data."""
        ...

    def kill(self) -> None:
        """End the worker at once. `messages` ends then, even if the worker's process cannot be ended."""
        ...

    async def end(self) -> bool:
        """Close the connection and wait for the worker to end; return whether something other than `kill` killed it."""
        ...
