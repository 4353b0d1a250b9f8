"""What engines of transducers share: the lengths of audio that suit these models, and the decoding of jobs.

`parakeet` runs a model with NeMo, `parakeet_onnx` the same model on onnxruntime; both give the same words for the same jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from myna.inference.engines.transducer.model import Transducer
from myna.streaming.events import seconds
from myna.streaming.session.jobs import InferenceJob, JobError, Outcome

LONGEST_S = 40.0
"""Longest job: the maximum length of Parakeet's training utterances (NVIDIA's model cards filter at 40 s)."""
BEST_SEGMENT_S = 20.0
"""Length at which speech without a pause is cut: long enough for context, short enough for early finals."""
CONTEXT_S = 3.0
"""Context that contains the words at a cut entirely. On a small model, more context cost up to three times the decode time
and gained nothing (40 sentences, 0.7 s between them, WER %: 0.29 with 3 s, 0.88 with 10 s; cache-aware 1.76 and 1.47)."""
SMALLEST_ENDPOINT_MS = 100
"""One encoder frame is 80 ms; shorter silences are stop closures inside words."""
MOST_PADDING = 0.2
"""Largest share of a batch that may be padding."""


def sorted_out(
    jobs: Sequence[InferenceJob], longest: int, name: str
) -> tuple[dict[str, Outcome], list[InferenceJob], list[InferenceJob]]:
    """Return the errors of jobs of more than `longest` samples, by job id, the whole jobs, and the steps of utterances."""
    errors: dict[str, Outcome] = {}
    whole, steps = list[InferenceJob](), list[InferenceJob]()
    for job in jobs:
        if job.utterance:
            steps.append(job)
        elif job.length <= longest:
            whole.append(job)
        else:
            errors[job.id] = JobError(
                f"{seconds(job.length):.1f} s of audio exceed the {seconds(longest):.1f} s that {name} decodes at once"
            )
    return errors, whole, steps


def decoded(model: Transducer, jobs: Sequence[InferenceJob]) -> list[Outcome]:
    """Return the transcripts of whole jobs, decoded as one batch."""
    encoded = model.encode([np.frombuffer(job.pcm, np.int16) for job in jobs])
    found, _ = model.decode(encoded, keyterms=[job.options.keyterms for job in jobs])
    return [model.vocabulary.transcript(tokens, model.frame_s) for tokens in found]
