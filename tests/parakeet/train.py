"""Trains the two small Parakeet models of the tests: ``python tests/parakeet/train.py full|cache-aware``.

The models have the architecture of the published ones (FastConformer encoder, 8x subsampling, TDT) with 1.8 million
parameters, so that tests run the same code as a large checkpoint. `speech` generates the audio. Training first uses a CTC
head only, because a transducer alone does not converge in this time, and then trains both.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from nemo.collections.asr.models import EncDecRNNTBPEModel
from omegaconf import OmegaConf
from recordings import held_out
from speech import SAMPLE_RATE, Speech, spoken
from tdt_loss import tdt_loss

HERE = Path(__file__).parent
DURATIONS = (0, 1, 2, 3, 4)
VOCABULARY = 128
WIDTH = 128
SENTENCES = 2600
CTC_UNTIL, CTC_WEIGHT = 1.0, 0.5
PEAK_RATE, WARM_UP = 1.5e-3, 200
BATCH = 8
NAMES = {"full": "tiny-parakeet", "cache-aware": "tiny-parakeet-streaming"}


def configuration(kind: str, tokenizer: str) -> dict[str, object]:
    """Return the model's NeMo configuration."""
    streaming = kind == "cache-aware"
    return {
        "sample_rate": SAMPLE_RATE,
        "model_defaults": {
            "enc_hidden": WIDTH, "pred_hidden": WIDTH, "joint_hidden": WIDTH,
            "tdt_durations": list(DURATIONS), "num_tdt_durations": len(DURATIONS),
        },
        "tokenizer": {"dir": tokenizer, "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE, "normalize": "NA" if streaming else "per_feature", "window_size": 0.025,
            "window_stride": 0.01, "window": "hann", "features": 80, "n_fft": 512, "log": True, "frame_splicing": 1,
            "dither": 0.0, "pad_to": 0, "pad_value": 0.0,
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 1, "time_masks": 0, "freq_width": 12, "time_width": 0.02,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80, "feat_out": -1, "n_layers": 4, "d_model": WIDTH, "use_bias": True,
            "subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 64,
            "causal_downsampling": streaming, "ff_expansion_factor": 4, "self_attention_model": "rel_pos", "n_heads": 4,
            "att_context_size": [[42, 6]] if streaming else [-1, -1],
            "att_context_style": "chunked_limited" if streaming else "regular",
            "xscaling": False, "untie_biases": True, "pos_emb_max_len": 5000, "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm" if streaming else "batch_norm",
            "conv_context_size": "causal" if streaming else None,
            "dropout": 0.05, "dropout_pre_encoder": 0.05, "dropout_emb": 0.0, "dropout_att": 0.05,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True, "vocab_size": VOCABULARY,
            "prednet": {"pred_hidden": WIDTH, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.1},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False, "fused_batch_size": 4,
            "num_extra_outputs": len(DURATIONS), "num_classes": VOCABULARY,
            "jointnet": {
                "joint_hidden": WIDTH, "activation": "relu", "dropout": 0.1, "encoder_hidden": WIDTH,
                "pred_hidden": WIDTH,
            },
        },
        "decoding": {
            "strategy": "greedy_batch", "model_type": "tdt", "durations": list(DURATIONS),
            "greedy": {"max_symbols": 10},
        },
        "loss": {"loss_name": "tdt", "tdt_kwargs": {"durations": list(DURATIONS), "sigma": 0.0, "omega": 0.0}},
        "language": "en",
    }  # fmt: skip


def made_tokenizer(texts: list[str], directory: Path) -> str:
    """Train a SentencePiece tokenizer; return its directory."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(directory / "tokenizer"), model_type="bpe",
        vocab_size=VOCABULARY, character_coverage=1.0, bos_id=-1, eos_id=-1, unk_id=0, minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    (directory / "vocab.txt").write_text("\n".join(pieces.id_to_piece(i) for i in range(VOCABULARY)))
    return str(directory)


class Examples:
    """Draws training examples: whole sentences, sentences cut between words, joined or with silence, and silence only."""

    def __init__(self, speeches: list[Speech], seed: int) -> None:
        self._speeches = speeches
        self._random = random.Random(seed)
        self._noise = np.random.default_rng(seed)

    def draw(self) -> tuple[np.ndarray, str]:
        """Return float32 audio and its text."""
        choose, kind = self._random, self._random.random()
        if kind < 0.03:
            return self._finished([self._silence(0.5, 3.0)], [])
        pieces, words = [self._silence(0.0, 0.6)], []
        for count in range(1 if kind < 0.88 else choose.choice((2, 2, 3))):
            if count:
                pieces.append(self._silence(0.1, 1.5))
            speech = choose.choice(self._speeches)
            audio, spoken_words = self._cut(speech) if choose.random() < 0.3 else (speech.audio, speech.words)
            pieces.append(audio * choose.uniform(0.3, 1.3))
            words += spoken_words
        long = choose.random() < 0.12
        pieces.append(self._silence(0.0, 0.7))
        if long:
            pieces.insert(choose.choice((0, len(pieces))), self._silence(1.0, 4.0))
        return self._finished(pieces, words)

    def _cut(self, speech: Speech) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return some of the words, cut out in the middle of speech as in a stream."""
        heads = [i for i, start in enumerate(speech.starts) if start >= 0]
        first, behind = sorted(self._random.sample([*heads, len(speech.words)], 2))
        if self._random.random() < 0.5:
            first = 0
        start = max(0, speech.starts[first] - self._random.randint(-300, 600))
        end = (
            len(speech.audio)
            if behind == len(speech.words)
            else speech.starts[behind] + self._random.randint(-400, 400)
        )
        return speech.audio[start:end], speech.words[first:behind]

    def _silence(self, least: float, most: float) -> np.ndarray:
        return np.zeros(round(self._random.uniform(least, most) * SAMPLE_RATE), np.float32)

    def _finished(self, pieces: list[np.ndarray], words: list[str]) -> tuple[np.ndarray, str]:
        audio = np.concatenate(pieces)
        level = 10 ** self._random.uniform(-5, -2.3)
        noisy = audio + level * self._noise.standard_normal(len(audio), np.float32)
        return np.clip(noisy, -1, 1).astype(np.float32), " ".join(words)


class Trainer:
    """The model, a CTC head used in training only, and their optimiser."""

    def __init__(self, model: EncDecRNNTBPEModel, steps: int, *, transducing: bool) -> None:
        self.model = model
        self.steps = steps
        self.done = 0
        self.head = torch.nn.Linear(WIDTH, VOCABULARY + 1)
        self._parameters = [*model.parameters(), *self.head.parameters()]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=1.0, betas=(0.9, 0.98), weight_decay=1e-3)
        self.ctc = 10.0  # running mean, per token
        self.transducing = transducing

    def step(self, batch: list[tuple[np.ndarray, str]]) -> float:
        """Train on a batch; return the transducer's loss per token."""
        self.done += 1
        share = self.done / self.steps
        rate = PEAK_RATE * min(1.0, self.done / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(share, 1.0))))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        audio = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(a) for a, _ in batch], batch_first=True)
        lengths = torch.tensor([len(a) for a, _ in batch])
        ids = [self.model.tokenizer.text_to_ids(text) for _, text in batch]
        tokens = torch.tensor([len(i) for i in ids])
        targets = torch.nn.utils.rnn.pad_sequence([torch.tensor(i, dtype=torch.long) for i in ids], batch_first=True)
        encoded, frames = self.model(input_signal=audio, input_signal_length=lengths)
        log_probabilities = self.head(encoded.transpose(1, 2)).log_softmax(-1)
        ctc = torch.nn.functional.ctc_loss(
            log_probabilities.transpose(0, 1), targets, frames, tokens, blank=VOCABULARY, reduction="sum",
            zero_infinity=True,
        ) / tokens.sum()  # fmt: skip
        self.ctc = 0.95 * self.ctc + 0.05 * ctc.item()
        self.transducing = self.transducing or self.ctc < CTC_UNTIL or share > 0.5
        loss, transducer = ctc, torch.tensor(0.0)
        if self.transducing:
            states, *_ = self.model.decoder(targets=targets, target_length=tokens)
            logits = self.model.joint(encoder_outputs=encoded, decoder_outputs=states)
            transducer = tdt_loss(logits, targets, frames, tokens, DURATIONS).sum() / tokens.sum()
            loss = transducer + CTC_WEIGHT * ctc
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 5.0)
        self._optimizer.step()
        return transducer.item()


def error_rate(model: EncDecRNNTBPEModel, speeches: list[Speech]) -> float:
    """Return the word error rate of the model's own `transcribe`, ignoring case and punctuation."""
    import jiwer

    model.eval()
    heard = model.transcribe([s.audio for s in speeches], batch_size=8, verbose=False)
    plain = [
        ["".join(c for c in text.lower() if c.isalnum() or c == " ") for text in texts]
        for texts in ([s.text for s in speeches], [h.text for h in heard])
    ]
    model.train()
    return float(jiwer.wer(plain[0], plain[1]))


def save(model: EncDecRNNTBPEModel, path: Path) -> None:
    """Write the .nemo file with weights in half precision: half the size, without effect on the tests."""
    with tempfile.TemporaryDirectory() as directory:
        model.save_to(f"{directory}/whole.nemo")
        with tarfile.open(f"{directory}/whole.nemo") as whole, tarfile.open(path, "w:gz") as small:
            for member in whole.getmembers():
                if not member.isfile():
                    continue
                content = whole.extractfile(member).read()
                if member.name.endswith(".ckpt"):
                    weights = torch.load(io.BytesIO(content), map_location="cpu")
                    halved = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
                    buffer = io.BytesIO()
                    torch.save(halved, buffer)
                    content = buffer.getvalue()
                member.size = len(content)
                small.addfile(member, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(NAMES))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--start", type=Path, help="go on from the weights of this model")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # more threads do not make a small model faster
    torch.manual_seed(1)
    left_out = held_out()
    speeches = spoken(7, SENTENCES, frozenset(s.text for s in left_out))
    print(f"{len(speeches)} sentences, {sum(len(s.audio) for s in speeches) / SAMPLE_RATE / 60:.0f} min", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = made_tokenizer([s.text for s in speeches], Path(directory))
        model = EncDecRNNTBPEModel(cfg=OmegaConf.create(configuration(arguments.kind, tokenizer)))
        print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
        if arguments.start:
            model.load_state_dict(
                EncDecRNNTBPEModel.restore_from(str(arguments.start), map_location="cpu").state_dict()
            )
        trainer = Trainer(model, arguments.steps, transducing=arguments.start is not None)
        examples = Examples(speeches, 3 if arguments.start is None else 4)
        began = time.monotonic()
        model.train()
        while trainer.done < trainer.steps:
            drawn = sorted((examples.draw() for _ in range(4 * BATCH)), key=lambda example: len(example[0]))
            batches = [drawn[i : i + BATCH] for i in range(0, len(drawn), BATCH)]
            random.shuffle(batches)
            for batch in batches:
                loss = trainer.step(batch)
            if trainer.done % 200 < len(batches):
                minutes = (time.monotonic() - began) / 60
                wer = f", WER {100 * error_rate(model, left_out):.1f} %" if trainer.transducing else ""
                print(f"{minutes:.1f} min, step {trainer.done}, ctc {trainer.ctc:.2f}, tdt {loss:.2f}{wer}", flush=True)
                save(model, arguments.out / f"{NAMES[arguments.kind]}.nemo")
        path = arguments.out / f"{NAMES[arguments.kind]}.nemo"
        save(model, path)
    restored = EncDecRNNTBPEModel.restore_from(str(path), map_location="cpu")
    wer = error_rate(restored, left_out)
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, WER {100 * wer:.2f} % on {len(left_out)} held-out sentences"
    )


if __name__ == "__main__":
    main()
