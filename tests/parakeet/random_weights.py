"""Writes a checkpoint of parakeet-tdt-0.6b's architecture with random weights: ``random_weights.py OUT.nemo``.

Loading, warm-up, streaming and unloading cost the same as with the published checkpoint; the recognised words are noise.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from nemo.collections.asr.models import EncDecRNNTBPEModel
from omegaconf import DictConfig, OmegaConf
from speech import spoken
from train import configuration, made_tokenizer


def large_configuration(tokenizer: str) -> DictConfig:
    """Return a configuration with the sizes of NVIDIA's parakeet-tdt-0.6b-v2 (model_config.yaml), but a small vocabulary."""
    config = OmegaConf.create(configuration("full", tokenizer))
    config.model_defaults.update(enc_hidden=1024, pred_hidden=640, joint_hidden=640)
    config.preprocessor.features = 128
    config.encoder.update(
        feat_in=128, n_layers=24, d_model=1024, n_heads=8, subsampling_conv_channels=256, use_bias=False,
        xscaling=False, conv_kernel_size=9,
    )  # fmt: skip
    config.decoder.prednet.update(pred_hidden=640, pred_rnn_layers=2)
    config.joint.jointnet.update(joint_hidden=640, encoder_hidden=1024, pred_hidden=640)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = made_tokenizer([speech.text for speech in spoken(7, 300)], Path(directory))
        model = EncDecRNNTBPEModel(cfg=large_configuration(tokenizer))
        print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters")
        model.save_to(str(out))


if __name__ == "__main__":
    main()
