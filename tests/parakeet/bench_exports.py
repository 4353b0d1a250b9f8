"""Compare the CPU time of NeMo, onnx-asr and exported models: ``bench_exports.py FOLDER [--layers 24] [--rounds 3]``.

Models with random weights are written to FOLDER once: checkpoints, and their exports in fp32, in int8 as `myna export` writes
it, and in int8 as public exports are. Each of them runs on one thread in a process of its own: finals of 5 and 10 s; a 4 s
utterance with an interim each second and a final with 3 s of context; steps of 0.56 s of a cache-aware model. The figures are
CPU seconds (the least of the rounds), peak memory, and the seconds until the engine is ready. All random audio is noise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("full", "cache-aware")
VARIANTS = ("nemo", "onnx-asr", "fp32", "int8", "int8-public")
RATE = 16_000
CONTEXT_S = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "VARIANT"), help="measure this one, in this process")
    given = parser.parse_args()
    if given.one and given.one[1].startswith("make "):
        quantised(given.folder, given.one[0], given.one[1].removeprefix("make "))
        return
    if given.one:
        print(json.dumps(measured(given.folder, *given.one, given.rounds)))
        return
    for kind in given.kinds:
        prepared(given.folder, kind, given.layers)
        rows = {}
        for variant in given.variants:
            if variant == "onnx-asr" and kind == "cache-aware":
                continue  # it reads no cache-aware models
            command = [sys.executable, "-W", "ignore", __file__, str(given.folder), "--rounds", str(given.rounds)]
            one = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run(
                [*command, "--one", kind, variant], env=one, check=True, capture_output=True, text=True
            )
            rows[variant] = json.loads(done.stdout.strip().splitlines()[-1])
            print(kind, variant, rows[variant], flush=True)
        for variant, row in rows.items():
            shares = {name: round(value / rows["nemo"][name], 2) for name, value in row.items() if name in rows["nemo"]}
            print(kind, variant, "share of nemo's:", shares, flush=True)


def prepared(folder: Path, kind: str, layers: int) -> None:
    """Write the models that are not there yet, each step in a process of its own: they need gigabytes."""
    folder.mkdir(exist_ok=True)
    checkpoint, fp32 = folder / f"{kind}.nemo", folder / f"{kind}-fp32"
    here = Path(__file__).parent
    python = [sys.executable, "-W", "ignore"]
    if not checkpoint.exists():
        made = [str(here / "random_weights.py"), str(checkpoint), "--kind", kind, "--layers", str(layers)]
        subprocess.run([*python, *made], check=True)
    if not fp32.exists():
        subprocess.run([*python, "-m", "myna", "export", str(checkpoint), str(fp32)], check=True)
    for variant in ("int8", "int8-public"):
        if not (folder / f"{kind}-{variant}").exists():
            subprocess.run([*python, __file__, str(folder), "--one", kind, f"make {variant}"], check=True)


def quantised(folder: Path, kind: str, variant: str) -> None:
    """Write an int8 form of the fp32 export: `int8` as `myna export --int8` does, `int8-public` as public exports are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from myna.inference.engines.parakeet_onnx.quantizing import quantize

    fp32, target = folder / f"{kind}-fp32", folder / f"{kind}-{variant}"
    target.mkdir()
    for name in ("vocab.txt", "config.json"):
        shutil.copy(fp32 / name, target)
    for name, kept in (("encoder-model", QuantType.QUInt8), ("decoder_joint-model", QuantType.QInt8)):
        source, made = fp32 / f"{name}.onnx", target / f"{name}.int8.onnx"
        if variant == "int8":
            quantize(source, made)
        else:
            quantize_dynamic(source, made, weight_type=kept)


def measured(folder: Path, kind: str, variant: str, rounds: int) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    run: Any = OnnxAsr(folder / f"{kind}-int8-public") if variant == "onnx-asr" else OwnEngine(folder, kind, variant)
    figures = {"ready_s": time.perf_counter() - began, "ready_cpu_s": time.process_time() - cpu}
    cases: dict[str, Callable[[], None]] = {}
    if kind == "full":
        cases = {"final 5 s": lambda: run.final(5), "final 10 s": lambda: run.final(10)}
    if variant != "onnx-asr" and kind == "full":
        cases["utterance 4 s"] = run.utterance
    if kind == "cache-aware":
        cases = {"10 s in steps of 0.56 s": run.steps}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            cpu = time.process_time()
            case()
            figures[name] = min(figures.get(name, 1e9), time.process_time() - cpu)
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {name: round(value, 3) for name, value in figures.items()}


def noise(seconds: float) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(int(seconds * RATE)) * 1000).astype(np.int16)


class OwnEngine:
    def __init__(self, folder: Path, kind: str, variant: str) -> None:
        from myna.inference.engines.port import Engine, ModelOptions

        self._engine: Engine
        if variant == "nemo":
            from myna.inference.engines.parakeet.engine import ParakeetEngine

            options = ModelOptions(source=str(folder / f"{kind}.nemo"), device="cpu", precision="fp32", threads=1)
            self._engine = ParakeetEngine(options)
        else:
            from myna.inference.engines.parakeet_onnx.engine import ParakeetOnnxEngine

            self._engine = ParakeetOnnxEngine(ModelOptions(source=str(folder / f"{kind}-{variant}"), threads=1))

    def _run(self, kind: int, pcm: np.ndarray, held: int = 0, utterance: int = 0) -> None:
        from myna.streaming.session.jobs import InferenceJob, JobKind, Transcript

        job = InferenceJob("j", "s", JobKind(kind), pcm[held:].tobytes(), 0.0, utterance=utterance, held=held)
        (outcome,) = self._engine.transcribe([job])
        assert isinstance(outcome, Transcript), outcome

    def final(self, seconds: float) -> None:
        self._run(0, noise(seconds))

    def utterance(self) -> None:
        pcm = noise(4)
        for second in range(1, 5):
            self._run(1, pcm[: second * RATE], (second - 1) * RATE, 1)
        self._run(0, noise(4 + CONTEXT_S))
        self._engine.release("s")

    def steps(self) -> None:
        pcm, size = noise(10), int(0.56 * RATE)
        for end in range(size, len(pcm), size):
            self._run(1, pcm[:end], end - size, 1)
        self._engine.release("s")


class OnnxAsr:
    def __init__(self, folder: Path) -> None:
        import onnx_asr
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._model = onnx_asr.load_model(
            "nemo-conformer-tdt", folder, quantization="int8", providers=["CPUExecutionProvider"], sess_options=options
        ).with_timestamps()

    def final(self, seconds: float) -> None:
        self._model.recognize(noise(seconds).astype(np.float32) / 32768, sample_rate=RATE)


if __name__ == "__main__":
    main()
