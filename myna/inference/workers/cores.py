"""The cores that the engines of a machine share: work that can wait leaves them to the finals of other models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 0.5
"""The longest time for which work that can wait is withheld. A lane that is stuck at a final does not stop another model."""


class Cores:
    """The cores of a machine, and the models that compute on them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.models: list[SharedCores] = []

    def join(self, assign: Callable[[], None]) -> SharedCores:
        """Return a model's part in the cores. `assign` is called when work that was withheld may start."""
        joined = SharedCores(self, assign)
        self.models.append(joined)
        return joined


class SharedCores:
    """One model's part in the cores."""

    def __init__(self, cores: Cores, assign: Callable[[], None]) -> None:
        self.finals = 0
        """The model's lanes that decode finals."""
        self._cores = cores
        self._assign = assign
        self._timer: asyncio.TimerHandle | None = None
        self._impatient = False

    def spare(self, busy: int) -> int | None:
        """Return how many batches that can wait may start while `busy` of the model's lanes work; None: any number."""
        others = sum(model.finals for model in self._cores.models if model is not self)
        if not others:
            return None
        return max(int(self._impatient), self._cores.number - others - busy)

    def settle(self, finals: int, *, withheld: bool) -> None:
        """Note how many lanes decode finals, and whether batches were withheld, after the model's lanes were assigned."""
        freed, self.finals = finals < self.finals, finals
        self._impatient = False
        if not withheld:
            self._stop_timer()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._lose_patience)
        if freed:
            for model in self._cores.models:
                if model is not self and model.withholds:
                    model._assign()

    @property
    def withholds(self) -> bool:
        """Whether a batch waits for cores."""
        return self._timer is not None

    def leave(self) -> None:
        """Take no part any more."""
        self._stop_timer()
        if self in self._cores.models:
            self._cores.models.remove(self)

    def _lose_patience(self) -> None:
        self._timer, self._impatient = None, True
        self._assign()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
