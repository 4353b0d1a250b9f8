"""The parameters of Deepgram's `/v1/listen`: honoured, refused with a reason, or ignored, as docs/deepgram.md says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from myna.batch.callback import Callback
from myna.runtime.errors import Refusal
from myna.server.dialects.defaults import default_policy
from myna.server.dialects.options import LONGEST_KEYTERM, MOST_KEYTERMS
from myna.server.dialects.parameters import Parameters, decimal, refused
from myna.server.dialects.speaker_limits import limits_of
from myna.server.language_tags import primary, spoken_language, unknown_language
from myna.server.serving import NoSuchModelRefusal
from myna.server.settings import Settings
from myna.streaming.audio.raw import AudioError, Codec, Coded, Encoding, RawFormat
from myna.streaming.events import bare_words
from myna.streaming.policy import MULTIPLE, Options, Policy
from myna.streaming.session.decode_window import fitted
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.speakers.labelling import SpeakerLimits
from myna.streaming.text.formatting import Formatting
from myna.streaming.text.redaction import Redaction
from myna.wire.quoting import quoted, shortened

DEFAULT_ENDPOINTING_MS = 10
"""Deepgram's own default. An engine uses its shortest endpoint instead."""
SILENCE_S = 5.0
"""Seconds between two empty final results in silence, by which clients follow the position in the audio."""
MOST_GIVEN = 1000
"""Keyterms and keywords that are parsed. Keywords with strength 0 are dropped before the limit on keyterms."""
MOST_SEARCHES = 50
"""Deepgram takes 25."""
LONGEST_SEARCH = 2500
"""Characters of all texts to search for."""
MOST_SEARCH_WORDS = 25
"""Words of one text. With all three limits reached, searching a result of 250 words takes about 5 ms."""
MOST_REPLACEMENTS = 200
"""As many as Deepgram takes."""
LONGEST_REPLACEMENT = 200
"""Characters of either side. Replacements repeat, and make answers long."""
LONGEST_URL = 2048

_RAW = {
    "linear16": Encoding.LINEAR16, "linear32": Encoding.FLOAT32, "mulaw": Encoding.MULAW, "alaw": Encoding.ALAW,
}  # fmt: skip
_CODED = {
    "flac": None, "ogg-opus": None, "opus": Codec.OPUS, "amr-nb": Codec.AMR_NB, "amr-wb": Codec.AMR_WB, "g729": Codec.G729,
}  # fmt: skip
UNSERVED = {"detect_entities": "this server has no model that detects entities"}
DIARIZERS = ("latest", "v1", "v2")
"""Versions of Deepgram's diarizer. All stand for the one here."""
LEGACY_DIARIZER = "v1"
"""The version that `diarize=true` stands for."""
_REDACTIONS = {"true": Redaction.NUMBERS, **{kind.value: kind for kind in Redaction}}
_METHODS = ("POST", "PUT")
"""HTTP methods of a callback. Any other would let a client use this server's address for actions on another server."""


@dataclass(frozen=True, slots=True)
class ListenRequest:
    """What a client asks for."""

    model: str | None
    language: str | None
    language_hints: tuple[str, ...]
    audio: RawFormat | Coded
    multichannel: bool
    interim_results: bool
    endpointing_ms: int | None
    utterance_end_ms: int | None
    vad_events: bool
    formatting: Formatting
    search: tuple[str, ...]
    keyterms: tuple[str, ...]
    callback: Callback | None
    diarizer: str | None
    """The version of the diarizer that the client asks for; None: it wants no speakers."""
    speakers: SpeakerLimits | None
    """How many speakers to tell apart; None: none."""

    @property
    def channels(self) -> int | None:
        """Return the number of transcripts; None: the container tells."""
        if not self.multichannel:
            return 1
        return self.audio.channels if isinstance(self.audio, RawFormat) or self.audio.codec else None

    def policy(self, settings: Settings, engine: EngineInfo) -> Policy:
        """Return the policy of its stream."""
        policy = replace(
            default_policy(settings, engine),
            endpoint_ms=self.endpointing_ms,
            gap_ms=self.utterance_end_ms,
            silence_s=SILENCE_S,
            speakers=self.speakers,
        )
        if not self.interim_results:
            policy = replace(policy, interim_every_s=None)
        return fitted(policy, engine)

    def options(self, engine: EngineInfo) -> Options:
        """Return the engine's options. Raises `Refusal` for options that the engine lacks."""
        return options_of(engine, self.language, self.language_hints, self.keyterms)


def options_of(engine: EngineInfo, language: str | None, hints: tuple[str, ...], keyterms: tuple[str, ...]) -> Options:
    """Return the engine's options. Raises `Refusal` for options that the engine lacks."""
    known = ", ".join(engine.languages)
    if unknown := unknown_language(engine, (language, *hints)):
        raise NoSuchModelRefusal(
            "unsupported_language",
            f"{engine.name} does not support the language {quoted(unknown)}; it supports {known}.",
            language=primary(unknown),
        )
    if language == MULTIPLE and len(engine.languages) == 1:
        raise NoSuchModelRefusal(
            "unsupported_language",
            f"{engine.name} supports one language, {known}, and cannot follow a change of language.",
            language=MULTIPLE,
        )
    if keyterms and not engine.keyterms:
        raise refused(
            f"The model {engine.name} does not support keyterm and keywords.",
            "unsupported_keyterms",
        )
    return Options(spoken_language(language), keyterms, tuple(map(primary, hints)))


def parse(query: Collection[tuple[str, str]]) -> ListenRequest:
    """Parse the parameters. Raises `Refusal`."""
    given = Parameters(query)
    for name, reason in UNSERVED.items():
        if given.flag(name):
            raise refused(f"{name} is not supported: {reason}.", "unsupported_feature")
    diarizer = diarizer_of(given)
    if diarizer == "v2":
        raise refused("diarize_model=v2 is for files; live streams accept v1 or latest.")
    given.flag("no_delay")  # results are never delayed
    language = given.text("language")
    return ListenRequest(
        model=given.text("model"),
        language=language,
        language_hints=given.texts("language_hint") if language == MULTIPLE else (),
        audio=audio_of(given),
        multichannel=given.flag("multichannel"),
        interim_results=given.flag("interim_results"),
        endpointing_ms=_endpointing(given),
        utterance_end_ms=given.number("utterance_end_ms", 0, 10_000) or None,
        vad_events=given.flag("vad_events"),
        formatting=formatting_of(given, language),
        search=searches_of(given),
        keyterms=keyterms_of(given),
        callback=callback_of(given),
        diarizer=diarizer,
        speakers=speakers_of(given, diarizer),
    )


def diarizer_of(given: Parameters) -> str | None:
    """Return the version of the diarizer that a request asks for; None: it asks for no speakers. Raises `Refusal`.

    `diarize_version` chose between diarizers that Deepgram has retired; any value stands for the one here.
    """
    wanted, model = given.flag("diarize"), given.choice("diarize_model", DIARIZERS)
    version = given.text("diarize_version")
    if model and (wanted or version):
        raise refused(f"{'diarize' if wanted else 'diarize_version'} and diarize_model cannot be combined.")
    return model or (LEGACY_DIARIZER if wanted else None)


def speakers_of(given: Parameters, diarizer: str | None) -> SpeakerLimits | None:
    """Return how many speakers to tell apart; None: none. Raises `Refusal`."""
    return limits_of(given, wanted=diarizer is not None, asking="diarize=true or diarize_model")


def audio_of(given: Parameters) -> RawFormat | Coded:
    """Return the announced format of the audio. Raises `Refusal`."""
    encoding = given.choice("encoding", {**_RAW, **_CODED})
    if encoding is None:
        return Coded()  # sample_rate and channels are only read with an encoding
    try:
        if encoding in _CODED:
            codec = _CODED[encoding]
            return Coded(codec, (given.number("channels", 1, 2) or 1) if codec is Codec.OPUS else 1)
        rate = given.number("sample_rate", 1, 1_000_000)
        if rate is None:
            raise refused(f"encoding {encoding} requires sample_rate, in samples per second.")
        return RawFormat(_RAW[encoding], rate, given.number("channels", 1, 1000) or 1)
    except AudioError as error:
        raise refused(str(error)) from error


def _endpointing(given: Parameters) -> int | None:
    value = (given.text("endpointing") or str(DEFAULT_ENDPOINTING_MS)).lower()
    if value in ("false", "0"):
        return None
    if value == "true":
        return DEFAULT_ENDPOINTING_MS
    try:
        return given.number("endpointing", 1, 10_000) or DEFAULT_ENDPOINTING_MS
    except Refusal:
        raise refused(f"endpointing must be false or milliseconds from 0 to 10000, not {quoted(value)}") from None


def formatting_of(given: Parameters, language: str | None) -> Formatting:
    """Return how words are written. Raises `Refusal`."""
    smart = given.flag("smart_format")
    return Formatting(
        language="" if language == MULTIPLE else primary(language or "en"),
        punctuate=given.flag("punctuate") or smart,
        smart=smart,
        numerals=given.flag("numerals"),
        dictation=given.flag("dictation"),
        fillers=given.flag("filler_words"),
        profanity=not given.flag("profanity_filter"),
        replacements=tuple(map(_replacement, given.texts("replace", most=MOST_REPLACEMENTS))),
        redactions=_redactions(given),
    )


def _replacement(value: str) -> tuple[str, str]:
    phrase, _, text = value.partition(":")
    if not phrase.strip():
        raise refused(f"replace must be FIND:REPLACEMENT, not {quoted(value)}")
    if (longest := max(len(phrase), len(text))) > LONGEST_REPLACEMENT:
        raise refused(f"replace must have at most {LONGEST_REPLACEMENT} characters on each side, not {longest}")
    return phrase, text


def searches_of(given: Parameters) -> tuple[str, ...]:
    """Return the phrases to search for. Raises `Refusal`."""
    texts = given.texts("search", most=MOST_SEARCHES)
    if (total := sum(map(len, texts))) > LONGEST_SEARCH:
        raise refused(f"search must have at most {LONGEST_SEARCH} characters in all, not {total}")
    if (longest := max((len(bare_words(text)) for text in texts), default=0)) > MOST_SEARCH_WORDS:
        raise refused(f"search must have phrases of at most {MOST_SEARCH_WORDS} words, not {longest}")
    return texts


def _redactions(given: Parameters) -> frozenset[Redaction]:
    kinds = [kind for kind in given.texts("redact") if kind != "false"]
    for kind in kinds:
        if kind not in _REDACTIONS:
            known = ", ".join(_REDACTIONS)
            raise refused(
                f"redact={shortened(kind)} is not supported. Supported values: {known}.", "unsupported_feature"
            )
    return frozenset(_REDACTIONS[kind] for kind in kinds)


def keyterms_of(given: Parameters) -> tuple[str, ...]:
    """Return the keyterms, with the keywords among them. Raises `Refusal`."""
    terms = list(given.texts("keyterm", most=MOST_GIVEN))
    for keyword in given.texts("keywords", most=MOST_GIVEN):
        term, _, boost = keyword.partition(":")
        strength = decimal(boost.removeprefix("-") or "1")
        if strength is None:
            raise refused(f"keywords must be TERM or TERM:BOOST with a number, not {quoted(keyword)}")
        if boost.startswith("-") and strength:
            raise refused(f"keywords={shortened(keyword)} is not supported: a boost must not be negative.")
        if strength and term:
            terms.append(term)
    return checked_keyterms(terms)


def checked_keyterms(terms: Sequence[str]) -> tuple[str, ...]:
    """Return the keyterms. Raises `Refusal` if they are too many, too long or empty."""
    if len(terms) > MOST_KEYTERMS:
        raise refused(f"A request may have at most {MOST_KEYTERMS} keyterms, not {len(terms)}.", "keyterm_limit")
    for term in terms:
        if not 0 < len(term.strip()) <= LONGEST_KEYTERM:
            raise refused(
                f"A keyterm must have from 1 to {LONGEST_KEYTERM} characters, not {len(term)}.", "keyterm_limit"
            )
    return tuple(terms)


def callback_of(given: Parameters) -> Callback | None:
    """Return where results are sent instead of in the response. Raises `Refusal`."""
    method = (given.text("callback_method") or "POST").upper()
    if method not in _METHODS:
        raise refused(f"callback_method must be one of {', '.join(_METHODS)}, not {quoted(method)}")
    url = given.text("callback", longest=LONGEST_URL)
    return None if url is None else Callback(url, method, key_header="dg-token")
