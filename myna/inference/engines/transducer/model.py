"""What the followers require of a transducer. A model keeps its tensors behind opaque values, in any runtime.

Opaque values are the encoded batch, a row's decoder state, an utterance's features and its encoder caches. Followers store
them, pass them back and replace them; they never look into them and never change them. The model must not change a state or
caches that it has returned: a follower that fails in the middle of a step uses the old ones again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from myna.inference.engines.transducer.words import Tokens, Vocabulary


class Encoded(Protocol):
    """Encoder frames of a batch."""

    def counts(self) -> list[int]:
        """Return the number of valid frames of each row."""
        ...


class Transducer(Protocol):
    """A model that encodes whole utterances and decodes them greedily, with a state that can be carried on."""

    @property
    def weights(self) -> object:
        """What the models of a process's lanes share; hashable. Lanes with the same weights follow the same utterances."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The pieces of the tokens."""
        ...

    @property
    def frame(self) -> int:
        """Samples between two encoder frames."""
        ...

    @property
    def frame_s(self) -> float:
        """Seconds between two encoder frames."""
        ...

    def encode(self, audio: Sequence[np.ndarray]) -> Encoded:
        """Encode a batch of int16 utterances, each as a whole."""
        ...

    def cut(self, encoded: Any, starts: Sequence[int], counts: Sequence[int]) -> Encoded:
        """Return `counts` frames of each row, from frame `starts` of the row on. A count may be 0."""
        ...

    def decode(
        self,
        encoded: Any,
        states: Sequence[Any] | None = None,
        keyterms: Sequence[tuple[str, ...]] = (),
        *,
        goes_on: bool = False,
    ) -> tuple[list[Tokens], list[Any]]:
        """Decode greedily; return the tokens of each row, and the states.

        `states` continues each row from an earlier call; None, as a whole or for a row, starts anew. `keyterms`, one tuple
        per row, are boosted. Token frames count from the start of the row's first call. The states are those after the call
        if it `goes_on`, otherwise those before it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a cache-aware encoder takes its feature frames. A pair holds the value of the first chunk and of the later ones."""

    chunks: tuple[int, int]
    """Feature frames that a chunk adds."""
    shifts: tuple[int, int]
    """Feature frames from the start of a chunk to the start of the next."""
    before: tuple[int, int]
    """Feature frames before the chunk that are encoded again with it, for the convolutions that reduce the frame rate."""
    hop: int
    """Samples between two feature frames."""
    reach: int
    """Samples after the start of a feature frame on which it depends: half of its window."""


class CacheAware(Transducer, Protocol):
    """A model whose encoder can be run chunk by chunk, with caches."""

    @property
    def chunking(self) -> Chunking:
        """The sizes of the chunks."""
        ...

    def features(self, audio: Sequence[np.ndarray]) -> Sequence[Any]:
        """Return the features of each int16 utterance: one frame each `hop` samples, not normalised over the utterance."""
        ...

    def advance(
        self,
        features: Sequence[Any],
        spans: Sequence[tuple[int, int]],
        caches: Sequence[Any],
        *,
        first: bool,
        last: bool = False,
    ) -> tuple[Encoded, list[Any]]:
        """Encode one chunk of each row; return its frames and the row's caches after it.

        A row's span is the start and the end of its chunk in its features, with the frames `Chunking.before` the chunk; the
        model drops the encoder frames of those. Frames before the features' first are zeros. `first` says whether the chunks
        are the first of their utterances; their caches are None. Chunks that are `last` may be shorter than a chunk, each by
        another number of frames, and all of their encoder frames count; otherwise all chunks have the full size.
        """
        ...
