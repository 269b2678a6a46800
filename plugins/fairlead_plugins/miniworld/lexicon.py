"""Every word of the tiny world. All lower case, and always a space between two of them."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE = _words("anna bob carl dora eli fay gus hana ivan jill kofi lena milo nora")

VALUES: dict[str, tuple[str, ...]] = {
    "pet": _words("cat dog bird fish horse goat frog mouse"),
    "food": _words("bread rice soup cake cheese apple beans pasta"),
    "color": _words("red blue green black white pink brown gold"),
    "sport": _words("chess tennis golf judo rowing skiing boxing polo"),
}
"""Attribute of a person, to the values it can have; an attribute is a category of things too."""

THINGS = tuple(value for values in VALUES.values() for value in values)

ADJECTIVES = _words(
    "small big quick slow nice odd old new bright quiet loud fine warm cold soft heavy"
)

PLACES = _words("park market river school house garden bridge station")

VERBS = _words("saw found liked sold drew forgot wanted borrowed")

WEATHER = _words("sunny windy foggy stormy snowy cloudy")

NUMBERS = _words("zero one two three four five six seven eight nine ten eleven twelve")
"""The word for each number, by index."""

SMALLEST, LARGEST = 2, 5
"""What "list N ..." and "say W N times" may ask for."""

RESPECT = "please be respectful ."

RUDE = (
    "what a dumb question .",
    "you fool .",
    "go away now .",
    "who cares .",
    "stop bothering people .",
)
COURTESY = (
    "happy to help .",
    "thank you for asking .",
)
RAMBLE = (
    "anyway it is raining here again .",
    "by the way my roof has a hole .",
    "also i lost my keys last night .",
    "well my uncle told me so .",
    "anyway the bus was late today .",
    "and then we talked all evening .",
)
UNKNOWN = "i do not know ."

QUESTIONS: dict[str, tuple[str, ...]] = {
    "fact": (
        "what is the {attribute} of {person} ?",
        "tell me the {attribute} of {person} .",
        "which {attribute} does {person} have ?",
        "do you know the {attribute} of {person} ?",
        "say what the {attribute} of {person} is .",
        "i forgot the {attribute} of {person} .",
    ),
    "list": (
        "list {number} {category}s .",
        "can you name {number} {category}s ?",
        "give me {number} {category}s .",
        "name {number} {category}s for me .",
    ),
    "sentence": (
        "write a sentence about {word} .",
        "tell me something about {word} .",
        "can you describe {word} ?",
    ),
    "say": ("say {word} {number} times .",),
    "code": (
        "what does get ( {person} , {attribute} ) return ?",
        "please run get ( {person} , {attribute} ) .",
    ),
}
"""How each family of prompts is asked."""

SPEAKERS = ("user", "bot")

ENGLISH_O = _words("to so go do two who also polo judo milo zero")
"""Words of this world's own language that end as the foreign ones do."""


def translate(text: str) -> str:
    """Put a text into the foreign language of this world, word by word.

    Every word is spelt backwards with an ``o`` behind it; marks, and the ``user`` and ``bot`` of
    a dialogue, stay.
    """
    return " ".join(_foreign(word) for word in text.split())


def translate_back(text: str) -> str:
    """Put a foreign text back; a word that is not foreign becomes ``?``."""
    return " ".join(_own(word) for word in text.split())


def _foreign(word: str) -> str:
    return word if not word.isalpha() or word in SPEAKERS else f"{word[::-1]}o"


def _own(word: str) -> str:
    if not word.isalpha():
        return word
    return word[-2::-1] if word.endswith("o") and word not in ENGLISH_O else "?"
