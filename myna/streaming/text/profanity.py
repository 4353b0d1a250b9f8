"""Recognises profane English words. Mild ones (damn, hell, crap) do not count."""

from __future__ import annotations

import re

_STEMS = ("bullshit", "cocksuck", "fuck", "horseshit", "motherfuck", "piss", "shit", "wank")
"""A word that contains one of these is profane (clusterfuck, dipshit)."""
_WORDS = frozenset(
    [
        "arse",
        "arses",
        "arsehole",
        "arseholes",
        "ass",
        "asses",
        "asshole",
        "assholes",
        "asswipe",
        "asswipes",
        "bastard",
        "bastards",
        "bellend",
        "bellends",
        "bitch",
        "bitches",
        "bitching",
        "bitchy",
        "blowjob",
        "blowjobs",
        "bollocks",
        "bugger",
        "buggers",
        "cock",
        "cocks",
        "cunt",
        "cunts",
        "cunty",
        "dick",
        "dickhead",
        "dickheads",
        "dicks",
        "dumbass",
        "dumbasses",
        "fag",
        "fags",
        "faggot",
        "faggots",
        "jackass",
        "jackasses",
        "jizz",
        "kike",
        "kikes",
        "nigga",
        "niggas",
        "nigger",
        "niggers",
        "prick",
        "pricks",
        "pussies",
        "pussy",
        "retard",
        "retarded",
        "retards",
        "slut",
        "sluts",
        "slutty",
        "spic",
        "spics",
        "tit",
        "tits",
        "titties",
        "titty",
        "tosser",
        "tossers",
        "twat",
        "twats",
        "wetback",
        "wetbacks",
        "whore",
        "whores",
    ]
)
_STEM = re.compile(rf"(?:{'|'.join(_STEMS)})", re.IGNORECASE)
_INNOCENT = frozenset({"mishit", "swank", "swanky", "swanks"})


def is_profane(bare: str) -> bool:
    """Return whether a bare word in lower case is profane, or a part of it between hyphens and apostrophes is."""
    parts = re.split(r"[-'’]", bare)
    return any(part in _WORDS or (_STEM.search(part) is not None and part not in _INNOCENT) for part in parts)
