"""A grammar with a memory: the first mention of a slot draws, every later mention recalls.

A grammar maps slots to tables. A table is a list of options with known probabilities; an option is a
template, and a template names slots in braces. That is all there is:

    {thing}      the first time in a story: draw one of the options of the table `thing`;
                 from then on: the same option again
    {a thing}    the form `a` of that option ("a kite"), whether this mention draws or recalls

What an option offers as a form is a template too, so one choice can decide which table a later slot draws
from: the form `lost` of a kite is "{lost_in_the_wind}". Hence what is drawn early shows again much
later, and hence a story has as many draws as it has slots.

A grammar has three readers: `tell` writes a text from random words, `parse` finds every way in which a text
can have been written, and the tests prove that there is only ever one: in each table no option's text
begins another's, so a text decides its draws from left to right, and its information is exactly the sum
of -ln(probability) over them.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from string import Formatter

Option = Mapping[str, str]  # form -> template; the form "" is the plain text
Grammar = Mapping[str, "Table"]  # slot -> table
Piece = tuple[str, str | None]  # literal text, then the field in braces after it (None: the template ends)

WORD = 2**64  # a draw reads one random word, uniform below this


class Table:
    """Options and their probabilities.

    Option i is drawn by the random words from `upto[i - 1]` (0 for the first) to below `upto[i]`, so its
    probability is the whole number of those words over 2**64: exact, summing to one, and within 2**-64 of
    weight / total. `nats[i]` is -ln of it.
    """

    def __init__(self, options: Sequence[Option], weights: Sequence[int]):
        self.options = tuple(options)
        total = sum(weights)
        bounds = [WORD * above // total for above in accumulate(weights, initial=0)]
        self.upto = bounds[1:]
        self.nats = [-math.log((high - low) / WORD) for low, high in pairwise(bounds)]


@dataclass(frozen=True)
class Derivation:
    """One way to write a text: the option each slot drew, in the order of the draws, and its information."""

    choices: dict[str, int]
    nats: float


class Telling(dict[str, str]):
    """A story while it is told: field -> its text, filled in by the first mention.

    `str.format_map` looks fields up here, from left to right; one that is missing is drawn or derived.
    """

    def __init__(self, grammar: Grammar, words: Iterator[int]):
        self.grammar = grammar
        self.words = words
        self.drawn: dict[str, Option] = {}
        self.nats = 0.0

    def __missing__(self, field: str) -> str:
        form, _, slot = field.rpartition(" ")
        option = self.drawn.get(slot)
        if option is None:
            table = self.grammar[slot]
            choice = bisect_right(table.upto, next(self.words))
            self.nats += table.nats[choice]
            option = self.drawn[slot] = table.options[choice]
        text = self[field] = option[form].format_map(self)
        return text


def tell(grammar: Grammar, start: str, words: Iterator[int]) -> tuple[str, float]:
    """Write one text of the slot `start`; `words` are random 64-bit words, one for each draw.

    Returns the text and its information in nats.
    """
    telling = Telling(grammar, words)
    return telling[start], telling.nats


def parse(grammar: Grammar, start: str, text: str) -> list[Derivation]:
    """Every derivation of `text` from the slot `start`: none if it is not a text of the grammar."""

    cut = cache(pieces)  # the same templates are tried at many places

    def read(
        template: Sequence[Piece], at: int, choices: dict[str, int]
    ) -> Iterator[tuple[int, dict[str, int]]]:
        """Each way to read the template at text[at:]: where it ends, and all choices up to there."""
        if not template:
            yield at, choices
            return
        (literal, field), rest = template[0], template[1:]
        if not text.startswith(literal, at):
            return
        at += len(literal)
        if field is None:
            yield at, choices
            return
        form, _, slot = field.rpartition(" ")
        options = grammar[slot].options
        for choice in [choices[slot]] if slot in choices else range(len(options)):
            inner = cut(options[choice][form])
            if text.startswith(inner[0][0], at):  # read would see it too: this spares a generator an option
                for end, further in read(inner, at, {**choices, slot: choice}):
                    yield from read(rest, end, further)

    return [
        Derivation(choices, sum(grammar[slot].nats[choice] for slot, choice in choices.items()))
        for end, choices in read(cut("{" + start + "}"), 0, {})
        if end == len(text)
    ]


def pieces(template: str) -> list[Piece]:
    """Cut a template behind its fields.

    "the {look} {thing}." is [("the ", "look"), (" ", "thing"), (".", None)].
    """
    return [(literal, field) for literal, field, _, _ in Formatter().parse(template)] or [("", None)]
