"""Writes the recordings of the tests: ``python tests/parakeet/recordings.py``.

`held_out/` holds sentences that training does not use; each file in `unseen/` holds a word not used in training.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from speech import SAMPLE_RATE, Speaker, Speech, spoken

HERE = Path(__file__).parent
HELD_OUT, HELD_OUT_SEED = 40, 99
UNSEEN = {
    "Davidson": "Davidson and Peter walked to London on Monday evening.",
    "Annabel": "Annabel will move the table today.",
    "boot": "Can you find my boot on Friday?",
}


def held_out() -> list[Speech]:
    """Return sentences that training does not use."""
    return spoken(HELD_OUT_SEED, HELD_OUT)


def write(folder: Path, speeches: dict[str, Speech]) -> None:
    folder.mkdir(exist_ok=True)
    lines = []
    for name, speech in speeches.items():
        audio = np.concatenate([np.zeros(SAMPLE_RATE // 5, np.float32), speech.audio])
        soundfile.write(folder / f"{name}.flac", audio, SAMPLE_RATE)
        lines.append(json.dumps({"audio": f"{name}.flac", "text": speech.text, "group": folder.name}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    write(HERE / "held_out", {f"{number:02}": speech for number, speech in enumerate(held_out())})
    speaker = Speaker()
    write(HERE / "unseen", {word: speaker.say(text, "en-us", 150) for word, text in UNSEEN.items()})


if __name__ == "__main__":
    main()
