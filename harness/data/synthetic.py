"""A small synthetic language whose entropy is known byte by byte, for studies without a network.

The text is pseudo-English in which position and the reach of attention matter:

- Agreement. Verbs agree in number with a subject that another noun may separate from them ("The
  cats near the king sleep."). Pronouns and reflexives agree in gender and number with the subject;
  the gender of a name is given where the name is introduced.
- Names are open-ended, made of syllables. They are introduced ("A tall monk called Toli hums.")
  and mentioned again `NEAREST` to `FARTHEST` bytes after their last mention; others are forgotten.
- Verbatim repeats. 'The cats repeat: "Toli hums."' quotes one of the sentences begun in the last
  `FARTHEST` bytes.

The bound. The text is a sequence of items of `Options`, and no item of a choice is a prefix of
another. So the text identifies each item as soon as it is complete, and with it the next choice:
a text has one derivation. The generator's probability of a byte, given all bytes before it, is the
mass of the items that continue with this byte divided by the mass of the items still possible. The
byte's surprisal is minus its logarithm. The sum over a text is exactly -log P(text), and no
predictor has a lower expected loss, whatever its training and context. On n bytes a loss may
differ from its expectation by chance, of the order of 1/sqrt(n) nats per byte.
"""

import math
import random
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise, product

import numpy as np

NEAREST = 10  # bytes from a name to its next mention
FARTHEST = 500  # as above; also the reach of quotations

# Nouns and adjectives begin with a consonant, because "A " may precede them. Plurals are regular.
NOUNS = {
    "He": "boy duke king lord monk smith".split(),
    "She": "dame girl maid nun queen widow".split(),
    "It": (
        "bat bear bug cat cow crow dog duck frog goat hawk hen lamb lark mole moth newt pig rat "
        "toad"
    ).split(),
}
ADJECTIVES = (
    "bad big calm cold dull fat glad grey kind loud mad poor rich red sad shy tall vain weak wet"
).split()
TRANSITIVE = "bite call feed find fear hear help hit know lead like meet need see seek want".split()
INTRANSITIVE = "dance dig grin hum jump nod run sing sit sleep wait weep".split()
TAILS = [
    "today.",
    "at dawn.",
    "by the lake.",
    "in May.",
    "with joy.",
    "for hours.",
    "up the hill.",
    "once more.",
]
REFLEXIVES = {"He": "himself", "She": "herself", "It": "itself", "They": "themselves"}
SYLLABLES = [consonant + vowel for consonant, vowel in product("bdfgklmnprstvz", "aeiou")]


@dataclass(frozen=True)
class SyntheticCorpus:
    """ASCII text and the surprisal of each byte, -log P(byte | all bytes before), nats, float64."""

    text: bytes
    surprisal: np.ndarray


class Options:
    """Weighted strings to choose from; none is a prefix of another, so a text identifies each."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        for item, following in pairwise(sorted(weights)):
            if following.startswith(item):
                raise ValueError(
                    f"{item!r} is a prefix of {following!r}: a text would be ambiguous"
                )
        self.weights = dict(weights)
        self._items = list(weights)
        self._cumulative = list(accumulate(weights.values()))
        self._surprisal: dict[str, list[float]] = {}

    def draw(self, uniform: float) -> str:
        """Return the item selected by a uniform number from [0, 1)."""
        return self._items[bisect(self._cumulative, uniform * self._cumulative[-1])]

    def next_byte(self, prefix: str) -> dict[str, float]:
        """Return the probability of each byte that may follow `prefix` of an item."""
        masses: dict[str, float] = {}
        for item, weight in self.weights.items():
            if item.startswith(prefix):
                byte = item[len(prefix)]
                masses[byte] = masses.get(byte, 0) + weight
        total = sum(masses.values())
        return {byte: mass / total for byte, mass in masses.items()}

    def surprisal(self, item: str) -> list[float]:
        """Return −log of the probability of each byte of an item, given those before it."""
        if item not in self._surprisal:
            probabilities = [self.next_byte(item[:i])[byte] for i, byte in enumerate(item)]
            self._surprisal[item] = [math.log(1 / probability) for probability in probabilities]
        return self._surprisal[item]


class NounPhrase:
    """A noun, with an adjective in front in half of the cases."""

    def __init__(self, nouns: Mapping[str, float]) -> None:
        adjective_weight = sum(nouns.values()) / len(ADJECTIVES)
        self._noun = Options(nouns)
        self._adjective_or_noun = Options(
            {**nouns, **_equal_weights(ADJECTIVES, " ", adjective_weight)}
        )

    def write(self, take: Callable[[Options], str]) -> str:
        """Write the phrase and return the item with the noun."""
        item = take(self._adjective_or_noun)
        return item if item in self._noun.weights else take(self._noun)


class Grammar:
    """Writes sentences; `choose` selects every item from the options that it is given."""

    def __init__(self, choose: Callable[[Options], str]) -> None:
        self.position = 0  # bytes written
        self._choose = choose
        self._sentence = ""
        self._pronoun = ""  # of the last subject
        self._names: dict[str, tuple[str, int]] = {}  # name: pronoun, position of last mention
        self._quotable: list[tuple[int, str]] = []  # position of a sentence, the sentence

        singular: dict[str, str] = {}
        for pronoun, nouns in NOUNS.items():
            singular |= dict.fromkeys(nouns, pronoun)
        plural = {f"{noun}s": "They" for noun in singular}
        self._pronouns = singular | plural
        self._subjects = {
            "The ": NounPhrase(_equal_weights(self._pronouns, " ")),
            "Every ": NounPhrase(_equal_weights(singular, " ")),
            "Most ": NounPhrase(_equal_weights(plural, " ")),
        }
        self._objects = NounPhrase(
            _equal_weights(self._pronouns, ".", 2.0) | _equal_weights(self._pronouns, " ")
        )
        self._persons = NounPhrase(_equal_weights(NOUNS["He"] + NOUNS["She"], " called "))
        self._syllables = (
            Options(_equal_weights(map(str.capitalize, SYLLABLES))),
            Options(_equal_weights(SYLLABLES)),
            Options(_equal_weights(SYLLABLES, " ") | {" ": float(len(SYLLABLES))}),
        )
        self._verbs = {
            traits: Options(_verbs(*traits)) for traits in product((False, True), repeat=3)
        }
        self._adjectives = Options(_equal_weights(ADJECTIVES, "."))
        self._tails = Options(_equal_weights(TAILS))
        self._separators = Options({" ": 5.0, "\n": 1.0})

    def write_sentence(self) -> None:
        """Write a sentence and the space or line break after it."""
        start = self.position
        self._sentence = ""
        earliest = start - FARTHEST
        self._names = {name: known for name, known in self._names.items() if known[1] >= earliest}
        self._quotable = [quotable for quotable in self._quotable if quotable[0] >= earliest]
        self._write_predicate(self._write_subject())
        if '"' not in self._sentence:
            self._quotable.append((start, self._sentence))
        self._take(self._separators)

    def _take(self, options: Options) -> str:
        item = self._choose(options)
        self._sentence += item
        self.position += len(item)
        return item

    def _write_subject(self) -> str | None:
        """Write the subject, remember its pronoun, and return its name if it has one."""
        start = self.position
        weights = {"The ": 6.0, "Every ": 2.0, "Most ": 3.0, "A ": 3.0} | self._mentions({" ": 8.0})
        if self._pronoun:
            weights[f"{self._pronoun} "] = 4.0
        first = self._take(Options(weights))
        if first == f"{self._pronoun} ":
            return None
        if first in self._subjects:
            self._pronoun = self._pronouns[self._subjects[first].write(self._take).strip()]
            return None
        if first == "A ":
            self._pronoun = self._pronouns[self._persons.write(self._take).split()[0]]
            start = self.position
            name = "".join([self._take(options) for options in self._syllables]).strip()
        else:
            name = first.strip()
            self._pronoun = self._names[name][0]
        self._names[name] = (self._pronoun, start)
        return name

    def _write_predicate(self, name: str | None) -> None:
        """Write the rest of the sentence, in agreement with the subject.

        If the subject is a name, it is excluded as object.
        """
        plural = self._pronoun == "They"
        quoting = bool(self._quotable)
        item = self._take(self._verbs[plural, quoting, self._sentence.strip() not in REFLEXIVES])
        if item.startswith(("near ", "who ")):
            self._subjects["The "].write(self._take)
            item = self._take(self._verbs[plural, quoting, False])
        verb = item.split(" ")[0]
        if item.endswith('"'):
            quotes = [sentence for _, sentence in self._quotable]
            self._take(Options(_equal_weights(quotes, '"')))
        elif verb in ("is", "are"):
            self._take(self._adjectives)
        elif verb.removesuffix("s") in TRANSITIVE:
            self._write_object(name)
        elif item.endswith(" "):
            self._take(self._tails)

    def _write_object(self, subject: str | None) -> None:
        start = self.position
        names = self._mentions({".": 4.0, " ": 2.0}, subject)
        item = self._take(Options({"the ": 6.0, f"{REFLEXIVES[self._pronoun]}.": 1.0} | names))
        if item in names:
            mentioned = item[:-1]
            self._names[mentioned] = (self._names[mentioned][0], start)
        elif item == "the ":
            item = self._objects.write(self._take)
        if item.endswith(" "):
            self._take(self._tails)

    def _mentions(
        self, endings: Mapping[str, float], subject: str | None = None
    ) -> dict[str, float]:
        """Return the weights of the names that may be mentioned here, with each of the endings."""
        names = [
            name
            for name, (_, mentioned_at) in self._names.items()
            if name != subject and NEAREST <= self.position - mentioned_at <= FARTHEST
        ]
        weights = {}
        for name in names:
            for ending, weight in endings.items():
                weights[name + ending] = weight / len(names)
        return weights


def generate(n_bytes: int, seed: int = 0) -> SyntheticCorpus:
    """Return `n_bytes` of the language; the same arguments give the same text on every machine."""
    uniform = random.Random(seed).random
    text: list[str] = []
    surprisal: list[float] = []

    def choose(options: Options) -> str:
        item = options.draw(uniform())
        text.append(item)
        surprisal.extend(options.surprisal(item))
        return item

    grammar = Grammar(choose)
    while grammar.position < n_bytes:
        grammar.write_sentence()
    return SyntheticCorpus(
        "".join(text)[:n_bytes].encode("ascii"), np.array(surprisal[:n_bytes], dtype=np.float64)
    )


def _equal_weights(items: Iterable[str], ending: str = "", weight: float = 1.0) -> dict[str, float]:
    return {item + ending: weight for item in items}


def _verbs(plural: bool, quoting: bool, modifiers: bool) -> dict[str, float]:
    """Return the weights of the items that may follow a subject or its modifier."""
    s = "" if plural else "s"
    weights = {f"{'are' if plural else 'is'} ": 4.0} | _equal_weights(TRANSITIVE, f"{s} ")
    weights |= _equal_weights(INTRANSITIVE, f"{s}.", 0.5) | _equal_weights(
        INTRANSITIVE, f"{s} ", 0.5
    )
    if quoting:
        weights[f'repeat{s}: "'] = 5.0
    if modifiers:
        weights["near the "] = 4.0
        for verb in TRANSITIVE:
            weights[f"who {verb}{s} the "] = 4.0 / len(TRANSITIVE)
    return weights
