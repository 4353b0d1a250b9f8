"""Writes a checkpoint of the architecture of NVIDIA's 0.6 B models with random weights: ``random_weights.py OUT.nemo``.

Loading, warm-up, streaming and unloading cost the same as with the published checkpoints; the recognised words are noise. The
biases of the joint network make the number of tokens natural: a full-context TDT model emits a token at each step and jumps
two frames, 6.25 tokens a second; a cache-aware RNN-T model emits none, 12.5 steps a second.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import torch
import train
from nemo.collections.asr.models import EncDecRNNTBPEModel
from omegaconf import DictConfig, OmegaConf

LARGE = 1e4
"""Bias of an output that always wins; its negative, of one that never does."""


def large_configuration(kind: str, tokenizer: str, layers: int) -> DictConfig:
    """Return the sizes of parakeet-tdt-0.6b-v2 (`full`) or nemotron-speech-streaming-en-0.6b (`cache-aware`)."""
    config = OmegaConf.create(train.configuration(kind, tokenizer))
    config.model_defaults.update(enc_hidden=1024, pred_hidden=640, joint_hidden=640)
    config.preprocessor.features = 128
    config.encoder.update(
        feat_in=128, n_layers=layers, d_model=1024, n_heads=8, subsampling_conv_channels=256, use_bias=False,
        xscaling=False, conv_kernel_size=9,
    )  # fmt: skip
    config.decoder.prednet.update(pred_hidden=640, pred_rnn_layers=2)
    config.joint.jointnet.update(joint_hidden=640, encoder_hidden=1024, pred_hidden=640)
    if kind == "cache-aware":
        config.encoder.att_context_size = [[70, 6], [70, 13], [70, 1], [70, 0]]
        del config.joint["num_extra_outputs"]
        for name in ("tdt_durations", "num_tdt_durations"):
            config.model_defaults.pop(name, None)
        config.decoding = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
        config.loss = {"loss_name": "default"}
    return config


def made(kind: str, layers: int, vocabulary: int, out: Path) -> int:
    """Write the checkpoint; return its number of parameters."""
    rng = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(2, 9))) for _ in range(60 * vocabulary)]
    train.VOCABULARY = vocabulary
    with tempfile.TemporaryDirectory() as directory:
        lines = [" ".join(words[i : i + 20]) for i in range(0, len(words), 20)]
        tokenizer = train.made_tokenizer(lines, Path(directory))
        model = EncDecRNNTBPEModel(cfg=large_configuration(kind, tokenizer, layers))
        bias = model.joint.joint_net[-1].bias.data
        bias[vocabulary] = -LARGE if kind == "full" else LARGE
        if kind == "full":
            bias[vocabulary + 1 :] = torch.tensor([0.0, 0.0, LARGE, 0.0, 0.0])
        model.save_to(str(out))
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=["full", "cache-aware"], default="full")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--vocabulary", type=int, default=1024)
    given = parser.parse_args()
    parameters = made(given.kind, given.layers, given.vocabulary, given.out)
    print(f"{parameters / 1e6:.0f} M parameters")


if __name__ == "__main__":
    main()
