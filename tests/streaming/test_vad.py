from __future__ import annotations

import numpy as np
from sounds import RATE, recording

from myna.streaming.speech.segmenter import WINDOW
from myna.streaming.speech.silero import SileroVad, VadMemory


def test_speech_and_silence_have_different_probabilities() -> None:
    pcm = np.concatenate([recording("beckett")[: 2 * RATE // WINDOW * WINDOW], np.zeros(2 * RATE // WINDOW * WINDOW)])
    (probabilities,) = SileroVad().probabilities([(VadMemory(), pcm.astype(np.int16).tobytes())])
    half = len(probabilities) // 2
    assert max(probabilities[:half]) > 0.9
    assert max(probabilities[half + 10 :]) < 0.1


def test_the_probabilities_of_a_channel_do_not_depend_on_other_channels() -> None:
    vad = SileroVad()
    size = 4 * RATE // WINDOW * WINDOW
    parts = [recording("beckett")[:size], recording("two_cities")[:size], recording("endgame_nagg_nell")[: size // 2]]
    parts = [part[: len(part) // WINDOW * WINDOW] for part in parts]
    alone = [vad.probabilities([(VadMemory(), part.tobytes())])[0] for part in parts]
    together = vad.probabilities([(VadMemory(), part.tobytes()) for part in parts])
    assert together == alone


def test_windows_give_the_same_probabilities_one_by_one_and_at_once() -> None:
    vad, memory = SileroVad(), VadMemory()
    pcm = recording("beckett")[: 100 * WINDOW]
    singly = [
        vad.probabilities([(memory, pcm[start : start + WINDOW].tobytes())])[0][0]
        for start in range(0, len(pcm), WINDOW)
    ]
    assert singly == vad.probabilities([(VadMemory(), pcm.tobytes())])[0]


def test_digital_silence_of_some_channels_does_not_change_the_others() -> None:
    vad = SileroVad()
    parts = [np.zeros(3 * WINDOW, np.int16), recording("beckett")[: 5 * WINDOW], np.zeros(7 * WINDOW, np.int16)]
    alone = [vad.probabilities([(VadMemory(), part.tobytes())])[0] for part in parts]
    assert [len(probabilities) for probabilities in alone] == [3, 5, 7]
    assert vad.probabilities([(VadMemory(), part.tobytes()) for part in parts]) == alone
    assert alone[2][:3] == alone[0]


def test_no_windows_give_no_probabilities() -> None:
    assert SileroVad().probabilities([]) == []
    assert SileroVad().probabilities([(VadMemory(), b"")]) == [[]]


def test_the_rebuilt_graph_computes_the_probabilities_of_the_shipped_one() -> None:
    import onnxruntime

    from myna.streaming.speech.silero import installed_model

    speech = recording("two_cities")[: 200 * WINDOW]
    pcm = np.concatenate([speech, np.zeros(50 * WINDOW, np.int16), speech])
    session = onnxruntime.InferenceSession(str(installed_model()), providers=["CPUExecutionProvider"])
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
    shipped = []
    for window in (pcm.reshape(-1, 1, WINDOW) / 32768).astype(np.float32):
        heard = np.concatenate([context, window], axis=1)
        probability, state = session.run(None, {"input": heard, "state": state, "sr": np.array(RATE, np.int64)})
        shipped.append(float(probability[0, 0]))
        context = window[:, -64:]
    vad, memory, rebuilt = SileroVad(), VadMemory(), list[float]()
    for start in range(0, len(pcm), 5 * WINDOW):
        rebuilt += vad.probabilities([(memory, pcm[start : start + 5 * WINDOW].tobytes())])[0]
    assert np.abs(np.array(rebuilt) - shipped).max() < 1e-5
