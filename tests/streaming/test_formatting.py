from __future__ import annotations

from collections.abc import Sequence

import pytest
from cost import yards
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from myna.streaming.events import Word, bare_words
from myna.streaming.text.formatting import Formatting, formatted, text_of
from myna.streaming.text.redaction import Redaction
from myna.streaming.text.search import LEAST, MOST_HITS, Hit, hits


def said(text: str, start: float = 0.0) -> tuple[Word, ...]:
    return tuple(Word(part, start + i * 0.5, start + i * 0.5 + 0.4, 0.8) for i, part in enumerate(text.split()))


def write(text: str, **wanted: object) -> str:
    formatting = Formatting(**wanted)  # type: ignore[arg-type]
    return text_of(formatted(said(text), formatting), punctuated=formatting.punctuate)


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("Nine hundred people came.", "900 people came."),
        ("I was born in nineteen eighty four, I think.", "I was born in 1984, I think."),
        ("Twenty twenty four was long.", "2024 was long."),
        ("The twenty-first of May", "The 21st of May"),
        ("pi is three point one four", "pi is 3.14"),
        ("one of us is the first", "one of us is the first"),
        ("call five five five one two one two now", "call 5551212 now"),
        ("my pin is oh four oh seven", "my pin is 0407"),
        ("a hundred and one of them", "101 of them"),
        ("a hundred times", "100 times"),
        ("one hundred, two hundred, three hundred.", "100, 200, 300."),
        ("It cost twenty dollars.", "It cost 20 dollars."),
        ("2 million people and 3,000 more", "2 million people and 3,000 more"),
    ],
)
def test_numerals_writes_spoken_numbers_in_digits(spoken: str, written: str) -> None:
    assert write(spoken, numerals=True) == written


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("It cost two hundred and fifty dollars.", "It cost $250."),
        ("five dollars and fifty cents, please", "$5.50, please"),
        ("two million euros", "€2,000,000"),
        ("one dollar", "$1"),
        ("Fifty percent of it", "50% of it"),
        ("at three thirty pm we left", "at 3:30 PM we left"),
        ("at three p.m. we left", "at 3 PM we left"),
        ("We left at three p.m. Then it rained.", "We left at 3 PM. Then it rained."),
        ("call five five five one two one two", "call 555-1212"),
        ("five five five one two one two one two three", "555-121-2123"),
        ("seventy five thousand people", "75,000 people"),
        ("write to john dot smith at example dot com, please", "write to john.smith@example.com, please"),
        ("go to docs dot python dot org now", "go to docs.python.org now"),
        ("we met at noon and connected the dot to the line", "we met at noon and connected the dot to the line"),
        ("Twenty, dollars are not the point", "20, dollars are not the point"),
    ],
)
def test_smart_format_writes_numbers_with_their_units_and_addresses(spoken: str, written: str) -> None:
    assert write(spoken, smart=True) == written


def test_in_an_unsupported_language_numbers_stay_words() -> None:
    assert write("kaksikymmentä yksi", numerals=True, language="fi") == "kaksikymmentä yksi"
    assert write("vierundzwanzig Leute", numerals=True, language="de") == "24 Leute"


def test_a_number_of_several_words_spans_all_of_their_time() -> None:
    words = formatted(said("now twenty one dollars left"), Formatting(smart=True))
    assert [(w.text, w.start, w.end) for w in words] == [("now", 0.0, 0.4), ("$21", 0.5, 1.9), ("left", 2.0, 2.4)]
    assert words[1].confidence == pytest.approx(0.8)


def test_a_long_pause_separates_two_numbers() -> None:
    words = [*said("twenty"), *said("four", start=5.0)]
    assert [w.text for w in formatted(words, Formatting(numerals=True))] == ["20", "4"]


def test_without_punctuation_the_text_is_bare_and_in_lower_case() -> None:
    assert write("Hello, World! It's 3:30.", punctuate=False) == "hello world it's 3:30"


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("Um, so we went uh home.", "So we went home."),
        ("We went home, um.", "We went home."),
        ("Uh-huh, mhmm.", "Uh-huh, mhmm."),
        ("um", ""),
    ],
)
def test_removing_fillers_keeps_the_capital_and_the_mark_of_the_sentence(spoken: str, written: str) -> None:
    assert write(spoken) == written
    assert write(spoken, fillers=True) == spoken


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("patient presents with a headache comma nausea comma and vomiting period they report it started today period",
         "patient presents with a headache, nausea, and vomiting. They report it started today."),
        ("Is it so, question mark. Yes exclamation point", "Is it so? Yes!"),
        ("dear sir comma new line thank you new paragraph yours", "dear sir,\nThank you\n\nYours"),
        ("he said open quote go close quote period", "he said “go”."),
        ("colon", ""),
    ],
)  # fmt: skip
def test_dictation_turns_spoken_marks_into_punctuation(spoken: str, written: str) -> None:
    assert write(spoken, dictation=True) == written


def test_profane_words_are_masked_with_their_punctuation_kept() -> None:
    assert write("What the fuck, you motherfucking asshole!", profanity=False) == "What the ****, you **** ****!"
    innocent = "Spicy peppers, a classic Scunthorpe assassin, cocky Dickens, pricked and swanky."
    assert write(innocent, profanity=False) == innocent


def test_phrases_are_replaced_or_deleted_wherever_they_occur() -> None:
    text = "Deep gram, deep gram is, well, deep."
    assert write(text, replacements=(("deep gram", "Deepgram"),)) == "Deepgram, Deepgram is, well, deep."
    assert write(text, replacements=(("Well", ""),)) == "Deep gram, deep gram is, deep."


@pytest.mark.parametrize(
    ("spoken", "kind", "written"),
    [
        ("it is two thousand and ten miles", Redaction.NUMBERS, "it is [REDACTED] miles"),
        ("she has forty two cats", Redaction.NUMBERS, "she has forty two cats"),
        ("she has forty two cats", Redaction.AGGRESSIVE_NUMBERS, "she has [REDACTED] cats"),
        ("dial one two three, four five six now", Redaction.NUMBERS, "dial [REDACTED] now"),
        ("number 4242 4242 4242 4242 ok", Redaction.PCI, "number [REDACTED] ok"),
        ("the year 2024 was good", Redaction.PCI, "the year 2024 was good"),
        ("my cvv is one two three ok", Redaction.PCI, "my cvv is [REDACTED] ok"),
        ("it expires twelve twenty six ok", Redaction.PCI, "it expires [REDACTED] ok"),
        ("yes four two four two", Redaction.PCI, "yes [REDACTED]"),
        ("it is 078-05-1120 ok", Redaction.SSN, "it is [REDACTED] ok"),
        ("room two hundred is free", Redaction.SSN, "room two hundred is free"),
    ],
)
def test_redaction_removes_spoken_and_written_numbers(spoken: str, kind: Redaction, written: str) -> None:
    assert write(spoken, redactions=frozenset({kind})) == written


@pytest.mark.parametrize("kind", list(Redaction))
def test_no_interim_shows_a_digit_of_a_number_that_is_redacted_later(kind: Redaction) -> None:
    spoken = "my number is four two four two four two four two four two four two four two four two"
    wanted = Formatting(smart=True, redactions=frozenset({kind}))
    for count in range(4, len(spoken.split()) + 1):
        words = formatted(said(" ".join(spoken.split()[:count])), wanted, open_ended=True)
        assert text_of(words, punctuated=True) == "my number is [REDACTED]", count


@given(
    st.lists(
        st.sampled_from(
            [
                "um",
                "one",
                "twenty",
                "hundred",
                "four",
                "dollars",
                "comma",
                "period",
                "Hello,",
                "shit",
                "at",
                "dot",
                "com",
                "pm",
                "42",
                "4242",
                "a",
            ]
        ),
        max_size=12,
    )
)
def test_formatted_words_keep_their_order_and_the_times_of_the_words_they_came_from(spoken: list[str]) -> None:
    words = said(" ".join(spoken))
    every = Formatting(
        smart=True, dictation=True, profanity=False, replacements=(("four", "for"),), redactions=frozenset(Redaction)
    )
    result = formatted(words, every)
    starts = [word.start for word in result]
    assert starts == sorted(starts)
    assert {word.start for word in result} <= {word.start for word in words}
    assert {word.end for word in result} <= {word.end for word in words}


def one_search(words: Sequence[Word], query: str) -> list[Hit]:
    """Search for one query, window by window."""
    wanted, size = " ".join(bare_words(query)), len(bare_words(query))
    places = []
    for count in {max(1, size - 1), size, size + 1}:
        for start in range(len(words) - count + 1):
            snippet = " ".join(word.bare for word in words[start : start + count])
            places.append((fuzz.ratio(wanted, snippet) / 100, -abs(count - size), -start, count, snippet))
    taken: set[int] = set()
    found = []
    for likeness, _, minus_start, count, snippet in sorted(places, reverse=True):
        span = range(-minus_start, -minus_start + count)
        if likeness >= LEAST and taken.isdisjoint(span) and len(found) < MOST_HITS:
            taken.update(span)
            found.append(Hit(likeness, words[span[0]].start, words[span[-1]].end, snippet))
    return found


_texts = st.lists(st.sampled_from(["epoch", "Epic,", "of", "belief.", "times", "a", "off", "uh"]), max_size=30)


@given(_texts, st.lists(st.lists(st.sampled_from(["epoch", "of", "times", "be"]), min_size=1, max_size=4), max_size=4))
def test_searching_for_many_queries_at_once_finds_the_same_hits_as_one_by_one(
    said_words: list[str], asked: list[list[str]]
) -> None:
    words = said(" ".join(said_words))
    queries = [" ".join(query) for query in asked]
    assert hits(words, queries) == [one_search(words, query) for query in queries]


def long_result() -> tuple[Word, ...]:
    """Return the words of a minute of fast speech, the longest live result."""
    return said(" ".join(f"{'abcdefgh'[i % 8 :]}{'xyz'[i % 3]}{i % 50} " for i in range(250)))


def test_the_largest_search_blocks_the_event_loop_briefly() -> None:
    short = [f"{'bcdefghi'[i % 8 :]} {'xyz'[i % 3] * (i % 20)} {i}" for i in range(50)]
    wordy = [" ".join("abcdefgh"[(i + k) % 8] for k in range(25)) for i in range(50)]
    long = [" ".join("abcdefgh"[(i + k) % 8 :] for k in range(25)) for i in range(20)]
    for queries in (short, wordy, long):
        assert yards(lambda queries=queries: hits(long_result(), queries)) < 10  # type: ignore[misc] # it was 50


def test_the_largest_replacement_blocks_the_event_loop_briefly() -> None:
    replacements = tuple((f"{'abcdefgh'[i % 8 :]}{'xyz'[i % 3]} {i}", f"x{i}") for i in range(200))
    words = long_result()
    assert yards(lambda: formatted(words, Formatting(replacements=replacements))) < 10  # it was 50
    assert yards(lambda: formatted(words, Formatting(dictation=True))) < 2


def test_search_finds_similar_phrases_best_first_without_overlaps() -> None:
    found = hits(said("We spoke of epoch times, then the epic of belief and epoch of belief."), ["epoch of belief"])[0]
    assert [hit.snippet for hit in found][:2] == ["epoch of belief", "epic of belief"]
    assert found[0].confidence == 1.0
    assert (found[0].start, found[0].end) == (5.5, 6.9)
    assert hits(said("nothing here"), ["aardvark"]) == [[]]
    assert hits((), ["aardvark"]) == [[]]


@pytest.mark.parametrize("text", ["B747", "4th", "1990s"])
def test_digits_inside_a_word_are_redacted_like_numbers(text: str) -> None:
    wanted = Formatting(redactions=frozenset({Redaction.AGGRESSIVE_NUMBERS}))
    assert [word.text for word in formatted(said(f"the {text} left"), wanted)] == ["the", "[REDACTED]", "left"]


@pytest.mark.parametrize(
    ("language", "spoken", "written"),
    [
        ("de", "Das sind fünfzig Prozent.", "Das sind 50 %."),
        ("de", "zwölf tausend fünfhundert Euro und zwanzig Cent, bitte", "12.500,20 €, bitte"),
        ("de", "gegen neun Uhr dreißig", "gegen 9:30 Uhr"),
        ("de", "gegen neun Uhr. Dreißig Leute kamen", "gegen 9 Uhr. 30 Leute kamen"),
        ("de", "drei Komma fünf Kilometer", "3,5 Kilometer"),
        ("de", "am dreiundzwanzigsten April", "am 23. April"),
        ("fr", "cinquante pour cent", "50 %"),
        ("fr", "douze mille cinq cents euros", "12 500 €"),
        ("es", "cincuenta por ciento de doce mil quinientos", "50 % de 12 500"),
        ("it", "dodicimila cinquecento euro", "12.500 €"),
        ("pt", "vinte reais", "R$ 20"),
        ("nl", "twaalfduizend vijfhonderd euro", "€ 12.500"),
        ("da", "tolv tusind fem hundrede kroner", "12.500 kr"),
        ("fi", "viisikymmentä prosenttia", "viisikymmentä prosenttia"),
    ],
)
def test_smart_format_writes_figures_by_the_rules_of_the_language(language: str, spoken: str, written: str) -> None:
    text = write(spoken, smart=True, fillers=True, language=language)
    assert text.replace("\u00a0", " ") == written


@pytest.mark.parametrize(
    ("language", "spoken", "written"),
    [
        ("es", "cincuenta por ciento", "50 por ciento"),
        ("fr", "cinquante pour cent", "50 pour cent"),
        ("it", "cinquanta per cento", "50 per cento"),
        ("pt", "cinquenta por cento", "50 por cento"),
        ("fr", "cent personnes", "100 personnes"),
    ],
)
def test_the_hundred_of_percent_stays_a_word(language: str, spoken: str, written: str) -> None:
    assert write(spoken, numerals=True, language=language) == written


def test_english_marks_and_profanities_are_unchanged_in_other_languages() -> None:
    german = said("der dicke dick und comma")
    wanted = Formatting(language="de", dictation=True, profanity=False, fillers=True)
    assert formatted(german, wanted) == german
