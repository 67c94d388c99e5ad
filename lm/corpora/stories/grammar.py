"""A grammar with a memory: the first mention of a slot draws an option, and every later mention repeats it.

A grammar maps slots to tables. A table is a list of options with known probabilities. An option is a template, and a
template names slots in braces:

    {thing}      at the first mention in a story: draw an option of the table `thing`;
                 at later mentions: repeat that option
    {a thing}    the form `a` of that option ("a kite"), at the first mention and at later ones

Each form of an option is a template too. So one choice can decide from which table a later slot draws: the form `lost`
of a kite is "{lost_in_the_wind}". Because options are repeated, what is drawn early shows again much later, and a story
has one draw for each of its slots.

`tell` writes a text from random words. `parse` finds every derivation: every way in which the grammar can write a text.
The tests prove that each text has only one. In each table, no option's text is the beginning of another's, so a text
decides its draws from left to right. Its information is therefore exactly the sum of -ln(probability) over its draws.
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
Piece = tuple[
    str, str | None
]  # literal text, and the field in braces after it (None at the end of the template)

WORD = 2**64  # a draw reads one random word, a uniform integer below this


class Table:
    """Options and their probabilities.

    The random words from `stops[i - 1]` (0 for the first option) to below `stops[i]` draw option i. Its probability is
    the number of these words over 2**64. So probabilities are exact, sum to one, and differ from weight / total by less
    than 2**-64. `nats[i]` is -ln of the probability.
    """

    def __init__(self, options: Sequence[Option], weights: Sequence[int]):
        self.options = tuple(options)
        total = sum(weights)
        bounds = [WORD * weight_sum // total for weight_sum in accumulate(weights, initial=0)]
        self.stops = bounds[1:]
        self.nats = [-math.log((high - low) / WORD) for low, high in pairwise(bounds)]


@dataclass(frozen=True)
class Derivation:
    """One way to write a text: the option that each slot drew, in the order of the draws, and the text's information."""

    choices: dict[str, int]
    nats: float


class Telling(dict[str, str]):
    """A story while it is told: maps each field to its text.

    `str.format_map` looks fields up here, from left to right. A missing field is drawn, or it is a new form of an
    option that was drawn before.
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
            choice = bisect_right(table.stops, next(self.words))
            self.nats += table.nats[choice]
            option = self.drawn[slot] = table.options[choice]
        text = self[field] = option[form].format_map(self)
        return text


def tell(grammar: Grammar, start: str, words: Iterator[int]) -> tuple[str, float]:
    """Write one text of the slot `start`, and return it with its information in nats.

    Args:
        words: Random 64-bit words, one for each draw.
    """
    telling = Telling(grammar, words)
    return telling[start], telling.nats


def parse(grammar: Grammar, start: str, text: str) -> list[Derivation]:
    """Return every derivation of `text` from the slot `start`: none if the grammar cannot write it."""

    cached_pieces = cache(pieces)  # each template is tried at many places

    def read(
        template: Sequence[Piece], start: int, choices: dict[str, int]
    ) -> Iterator[tuple[int, dict[str, int]]]:
        """Yield (end, choices up to there) for each way to read the template from text[start] on."""
        if not template:
            yield start, choices
            return
        (literal, field), rest = template[0], template[1:]
        if not text.startswith(literal, start):
            return
        start += len(literal)
        if field is None:
            yield start, choices
            return
        form, _, slot = field.rpartition(" ")
        options = grammar[slot].options
        for choice in [choices[slot]] if slot in choices else range(len(options)):
            inner = cached_pieces(options[choice][form])
            if text.startswith(inner[0][0], start):  # `read` checks this too, but here no generator is made
                for end, further in read(inner, start, {**choices, slot: choice}):
                    yield from read(rest, end, further)

    return [
        Derivation(choices, sum(grammar[slot].nats[choice] for slot, choice in choices.items()))
        for end, choices in read(cached_pieces("{" + start + "}"), 0, {})
        if end == len(text)
    ]


def pieces(template: str) -> list[Piece]:
    """Cut a template after each of its fields.

    >>> pieces("the {look} {thing}.")
    [('the ', 'look'), (' ', 'thing'), ('.', None)]
    """
    return [(literal, field) for literal, field, _, _ in Formatter().parse(template)] or [("", None)]
