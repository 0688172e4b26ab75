"""A small synthetic language whose entropy is known byte by byte, for studies that must run without a network.

The text is pseudo-English in which position and the reach of attention matter:

- Agreement. Verbs follow the number of a subject that a modifier with another noun may part from them ("The cats near
  the king sleep."); pronouns and reflexives follow the gender and number of the subject, which for a name were told
  where it was introduced.
- Names, open-ended and made of syllables, are introduced ("A tall monk called Toli hums.") and come up again `NEAREST`
  to `FARTHEST` bytes after their last mention; those that do not are forgotten.
- Verbatim repeats. 'The cats repeat: "Toli hums."' quotes one of the sentences begun in the last `FARTHEST` bytes.

The bound. All text is items of `Options`, and no item of a choice begins another. So the text alone tells each item as
soon as it is complete, and with it which choice comes next: a text has one derivation. The generator's probability of a
byte, given all bytes before it, is the mass of the items that go on with this byte over the mass of the items still
possible; minus its logarithm is the byte's surprisal. The sum over a text is exactly −log P(text), and no predictor has
a lower loss in expectation, whatever it was trained on and however far it looks back. On n bytes a loss may differ
from its expectation by chance, in the order of 1/√n nats per byte.
"""

import math
import random
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise, product

import numpy as np

NEAREST, FARTHEST = (
    10,
    500,
)  # bytes from a name to its next mention; FARTHEST also limits what is quoted

# What may follow "A " begins with a consonant, and every plural is regular.
NOUNS = {
    "He": "boy duke king lord monk smith".split(),
    "She": "dame girl maid nun queen widow".split(),
    "It": "bat bear bug cat cow crow dog duck frog goat hawk hen lamb lark mole moth newt pig rat toad".split(),
}
ADJECTIVES = "bad big calm cold dull fat glad grey kind loud mad poor rich red sad shy tall vain weak wet".split()
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
    """ASCII text, and for each of its bytes −log P(byte | all bytes before it), in nats (float64)."""

    text: bytes
    surprisal: np.ndarray


class Options:
    """Weighted strings to choose from; none is the beginning of another, so the text tells which was chosen."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        for one, following in pairwise(sorted(weights)):
            if following.startswith(one):
                raise ValueError(
                    f"{one!r} is the beginning of {following!r}: a text would not tell them apart"
                )
        self.weights = dict(weights)
        self._items = list(weights)
        self._cumulative = list(accumulate(weights.values()))
        self._surprisal: dict[str, list[float]] = {}

    def draw(self, uniform: float) -> str:
        """Return the item that a number drawn uniformly from [0, 1) stands for."""
        return self._items[bisect(self._cumulative, uniform * self._cumulative[-1])]

    def next_byte(self, prefix: str) -> dict[str, float]:
        """Return the probability of each byte that may follow `prefix`, what is known of the item so far."""
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
            probabilities = [self.next_byte(item[:at])[byte] for at, byte in enumerate(item)]
            self._surprisal[item] = [math.log(1 / probability) for probability in probabilities]
        return self._surprisal[item]


class NounPhrase:
    """A noun that an adjective precedes one time in two."""

    def __init__(self, nouns: Mapping[str, float]) -> None:
        share = sum(nouns.values()) / len(ADJECTIVES)
        self._noun = Options(nouns)
        self._adjective_or_noun = Options({**nouns, **_equal(ADJECTIVES, " ", share)})

    def write(self, take: Callable[[Options], str]) -> str:
        """Write it and return the item with the noun."""
        item = take(self._adjective_or_noun)
        return item if item in self._noun.weights else take(self._noun)


class Grammar:
    """Writes one sentence after the other, all of it items that `choose` takes from the options it is given."""

    def __init__(self, choose: Callable[[Options], str]) -> None:
        self.position = 0  # bytes written
        self._choose = choose
        self._sentence = ""
        self._pronoun = ""  # of the last subject
        self._names: dict[
            str, tuple[str, int]
        ] = {}  # a name's pronoun, and where it was last mentioned
        self._quotable: list[tuple[int, str]] = []  # where a sentence begins, and the sentence

        singular = {noun: pronoun for pronoun, nouns in NOUNS.items() for noun in nouns}
        plural = {f"{noun}s": "They" for noun in singular}
        self._pronouns = singular | plural
        self._subjects = {
            "The ": NounPhrase(_equal(self._pronouns, " ")),
            "Every ": NounPhrase(_equal(singular, " ")),
            "Most ": NounPhrase(_equal(plural, " ")),
        }
        self._objects = NounPhrase(_equal(self._pronouns, ".", 2.0) | _equal(self._pronouns, " "))
        self._persons = NounPhrase(_equal(NOUNS["He"] + NOUNS["She"], " called "))
        self._syllables = (
            Options(_equal(map(str.capitalize, SYLLABLES))),
            Options(_equal(SYLLABLES)),
            Options(_equal(SYLLABLES, " ") | {" ": float(len(SYLLABLES))}),
        )
        self._verbs = {
            traits: Options(_verbs(*traits)) for traits in product((False, True), repeat=3)
        }
        self._adjectives = Options(_equal(ADJECTIVES, "."))
        self._tails = Options(_equal(TAILS))
        self._separators = Options({" ": 5.0, "\n": 1.0})

    def write_sentence(self) -> None:
        """Write a sentence and the space or the end of line after it."""
        start, self._sentence = self.position, ""
        self._names = {
            name: known for name, known in self._names.items() if start - known[1] <= FARTHEST
        }
        self._quotable = [
            (begin, quote) for begin, quote in self._quotable if start - begin <= FARTHEST
        ]
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
        """Write the subject, keep its pronoun, and return its name if it has one."""
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
        self._names[name] = self._pronoun, start
        return name

    def _write_predicate(self, name: str | None) -> None:
        """Write what agrees with the subject; if that is a name, it is not its own object."""
        plural, quoting = self._pronoun == "They", bool(self._quotable)
        item = self._take(self._verbs[plural, quoting, self._sentence.strip() not in REFLEXIVES])
        if item.startswith(("near ", "who ")):
            self._subjects["The "].write(self._take)
            item = self._take(self._verbs[plural, quoting, False])
        verb = item.split(" ")[0]
        if item.endswith('"'):
            self._take(Options(_equal((quote for _, quote in self._quotable), '"')))
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
            self._names[item[:-1]] = self._names[item[:-1]][0], start
        elif item == "the ":
            item = self._objects.write(self._take)
        if item.endswith(" "):
            self._take(self._tails)

    def _mentions(
        self, endings: Mapping[str, float], subject: str | None = None
    ) -> dict[str, float]:
        """Return the weights of the names that may come up here, each with each of the endings."""
        seen = {
            name: self.position - at for name, (_, at) in self._names.items() if name != subject
        }
        names = [name for name, distance in seen.items() if NEAREST <= distance <= FARTHEST]
        return {
            name + ending: weight / len(names)
            for name in names
            for ending, weight in endings.items()
        }


def generate(n_bytes: int, seed: int = 0) -> SyntheticCorpus:
    """Write `n_bytes` of the language; the same arguments give the same text on every machine."""
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


def _equal(items: Iterable[str], ending: str = "", weight: float = 1.0) -> dict[str, float]:
    return {item + ending: weight for item in items}


def _verbs(plural: bool, quoting: bool, modifiers: bool) -> dict[str, float]:
    """Return the weights of what may follow a subject, or its modifier."""
    s = "" if plural else "s"
    weights = {f"{'are' if plural else 'is'} ": 4.0} | _equal(TRANSITIVE, f"{s} ")
    weights |= _equal(INTRANSITIVE, f"{s}.", 0.5) | _equal(INTRANSITIVE, f"{s} ", 0.5)
    if quoting:
        weights[f'repeat{s}: "'] = 5.0
    if modifiers:
        weights |= {"near the ": 4.0} | {
            f"who {verb}{s} the ": 4.0 / len(TRANSITIVE) for verb in TRANSITIVE
        }
    return weights
