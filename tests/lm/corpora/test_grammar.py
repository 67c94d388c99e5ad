"""The stories and their entropy floor: the nats in the sidecar are the information of the text.

The proof has three parts. First, probabilities sum to one in every table. Second, no text has two derivations: this is
proved for the whole grammar, and then tried on sampled stories with a parser that finds all derivations. Third, the
nats in the sidecar are the sum over the derivation. A small grammar is enumerated completely, to check `tell` and
`parse` themselves.
"""

import itertools
import math
from collections import Counter
from functools import cache

import numpy as np
import pytest

from lm.corpora.stories import WORDS_PER_STORY, parse_story
from lm.corpora.stories.grammar import WORD, Grammar, Table, parse, pieces, tell
from lm.corpora.stories.plots import GRAMMAR

Atoms = tuple[tuple[str, str], ...]  # a template as ("text", literal) and ("field", name)


def atoms(template: str) -> Atoms:
    both = ((("text", literal), ("field", field or "")) for literal, field in pieces(template))
    return tuple(atom for atom in itertools.chain.from_iterable(both) if atom[1])


def expansions(field: str) -> list[Atoms]:
    """Return every template that a field may stand for, with any earlier draws."""
    form, _, slot = field.rpartition(" ")
    return [atoms(option[form]) for option in GRAMMAR[slot].options]


def continues_word(char: str) -> bool:
    return char.isalnum() or char == "-"


def test_the_probabilities_of_every_table_sum_to_one() -> None:
    for slot, table in GRAMMAR.items():
        widths = [high - low for low, high in itertools.pairwise([0, *table.stops])]
        assert sum(widths) == WORD, slot
        assert min(widths) > 0, f"an option of {slot} that is never drawn"
        assert len(widths) == len(table.nats) == len(table.options), slot
        assert [math.exp(-n) for n in table.nats] == pytest.approx([width / WORD for width in widths]), slot
        assert math.fsum(math.exp(-n) for n in table.nats) == pytest.approx(1, abs=1e-12), slot


SMALL: Grammar = {
    "start": Table(
        [{"": "{who} saw {a thing}. {lost thing}", "by": "day"}, {"": "{a thing}! {who}?", "by": "night"}],
        [2, 1],
    ),
    "who": Table([{"": "Ann", "he": "she"}, {"": "Bo", "he": "he"}, {"": "Anna", "he": "she"}], [3, 2, 1]),
    "thing": Table(
        [
            {"": "kite", "a": "a kite", "lost": "{he who} lost the kite {how} by {by start}."},
            {"": "owl", "a": "an owl", "lost": "{who} saw {other} and {a thing}."},
        ],
        [1, 4],
    ),
    "how": Table([{"": "fast"}, {"": "slowly"}, {"": "fast, very fast"}], [1, 1, 1]),
    "other": Table([{"": "Bo"}, {"": "Ann"}], [1, 6]),
}


def small_texts(number: int) -> list[tuple[str, float]]:
    words = np.random.Philox(key=1).random_raw(8 * number).reshape(number, 8).tolist()
    return [tell(SMALL, "start", iter(row)) for row in words]


def test_all_texts_of_a_small_grammar_have_probability_one_together() -> None:
    # The first plot has 3 who x (3 how + 2 other) texts, the second has 3 x 2. If two derivations shared a text, there
    # would be fewer texts. If a draw were hidden or miscounted, the sum would not be 1.
    nats = dict(small_texts(20_000))
    assert len(nats) == 3 * (3 + 2) + 3 * 2
    assert math.fsum(math.exp(-n) for n in nats.values()) == pytest.approx(1, abs=1e-12)


def test_texts_are_as_frequent_as_their_nats_say() -> None:
    number = 20_000
    sample = small_texts(number)
    counts = Counter(text for text, _ in sample)
    expected = {text: number * math.exp(-nats) for text, nats in sample}
    chi2 = sum((counts[text] - mean) ** 2 / mean for text, mean in expected.items())
    assert chi2 < 45.3  # 20 degrees of freedom: 1 in 1,000 by chance, and the seed is fixed


def test_the_parser_finds_every_derivation() -> None:
    twice: Grammar = {
        "start": Table([{"": "{one}{two}"}], [1]),
        "one": Table([{"": "a"}, {"": "aa"}], [1, 1]),
        "two": Table([{"": "a"}, {"": "aa"}], [1, 3]),
    }
    assert [d.choices for d in parse(twice, "start", "aaa")] == [
        {"start": 0, "one": 0, "two": 1},
        {"start": 0, "one": 1, "two": 0},
    ]
    assert [d.nats for d in parse(twice, "start", "aa")] == [pytest.approx(math.log(2 * 4))]
    assert parse(twice, "start", "aab") == []


@cache
def edge(field: str, at: int) -> frozenset[str]:
    """Return the characters that texts of a field begin with (at = 0) or end with (at = -1)."""
    chars: set[str] = set()
    for option in expansions(field):
        kind, value = option[at]
        chars |= {value[at]} if kind == "text" else edge(value, at)
    return frozenset(chars)


def every_template() -> list[tuple[str, str, str]]:
    return [
        (slot, form, template)
        for slot, table in GRAMMAR.items()
        for option in table.options
        for form, template in option.items()
    ]


def test_words_end_where_their_slots_end() -> None:
    # So "cat" cannot be mistaken for the beginning of "caterpillar": the next character tells them apart.
    for slot, form, template in every_template():
        for (kind, value), (next_kind, next_value) in itertools.pairwise(atoms(template)):
            if "field" in (kind, next_kind):
                ends = edge(value, -1) if kind == "field" else {value[-1]}
                begins = edge(next_value, 0) if next_kind == "field" else {next_value[0]}
                runs_on = any(map(continues_word, ends)) and any(map(continues_word, begins))
                assert not runs_on, f"{slot} {form}: {template}"


@cache
def reach(field: str) -> frozenset[str]:
    """Return the slots that the text of a field may depend on."""
    slot = field.rpartition(" ")[2]
    inner = {value for option in expansions(field) for kind, value in option if kind == "field"}
    return frozenset({slot}).union(*map(reach, inner))


def apart(a: Atoms, b: Atoms, before: str = " ", split: frozenset[str] = frozenset()) -> bool:
    """Whether no text of `a` is the beginning of a text of `b`, and none of `b` is the beginning of one of `a`.

    Texts are compared in whole words. The texts before `a` and `b` are equal and end with the character `before`
    ("" if unknown). Only the slots in `split` may have drawn different options. So if both continue with a field that
    depends on none of these slots, it has one text for both. Every other field may stand for any of its options.
    """
    while a and b and a[0] == b[0] and (a[0][0] == "text" or not reach(a[0][1]) & split):
        before = a[0][1][-1] if a[0][0] == "text" else ""
        a, b = a[1:], b[1:]
    for one, other in ((a, b), (b, a)):
        if one and one[0][0] == "field":
            field = one[0][1]
            split |= {field.rpartition(" ")[2]}
            return all(apart(option + one[1:], other, before, split) for option in expansions(field))
    if not a or not b:  # one has ended; they differ if the other one continues the word
        rest = a or b
        return bool(rest) and bool(before) and continues_word(before) and continues_word(rest[0][1][0])
    length = min(len(a[0][1]), len(b[0][1]))
    common, rest_a, rest_b = a[0][1][:length], a[0][1][length:], b[0][1][length:]
    if common != b[0][1][:length]:
        return True
    tail_a, tail_b = ((("text", rest),) * bool(rest) for rest in (rest_a, rest_b))
    return apart(tail_a + a[1:], tail_b + b[1:], common[-1], split)


class Walk:
    """Visits all stories at once, to find the slots that are always drawn, their first mentions and the most draws."""

    def __init__(self) -> None:
        self.first_mentions: set[tuple[str, str]] = set()

    def field(self, name: str, drawn: frozenset[str]) -> tuple[frozenset[str], int]:
        """Return the slots always drawn after the field, given those before it, and the most draws that it takes."""
        form, _, slot = name.rpartition(" ")
        draws = 0
        if slot not in drawn:
            self.first_mentions.add((slot, form))
            drawn, draws = drawn | {slot}, 1
        after = {self.template(option[form], drawn) for option in GRAMMAR[slot].options}
        return frozenset.intersection(*(d for d, _ in after)), draws + max(n for _, n in after)

    def template(self, template: str, drawn: frozenset[str]) -> tuple[frozenset[str], int]:
        draws = 0
        for kind, value in atoms(template) if "{" in template else ():
            if kind == "field":
                drawn, more = self.field(value, drawn)
                draws += more
        return drawn, draws


def test_no_two_draws_read_the_same() -> None:
    """The text shows every draw: the options' texts of each slot are a prefix code.

    By induction the whole grammar is a prefix code, so a text decides its draws from left to right.
    """
    walk = Walk()
    _, most_draws = walk.field("story", frozenset())
    assert most_draws <= WORDS_PER_STORY
    assert {slot for slot, _ in walk.first_mentions} == set(GRAMMAR), "a table that no story uses"
    for slot, form in sorted(walk.first_mentions):
        for a, b in itertools.combinations(expansions(f"{form} {slot}".strip()), 2):
            assert apart(a, b), f"two options of {slot!r} can read the same: {a} and {b}"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("the cat", "the caterpillar", True),  # one word has ended, the other has not
        ("ice", "ice cream", False),
        ("{hero} ran", "{hero} walked", True),
        ("{hero} ran", "{friend} ran", True),  # no name is in both lists
        ("{colour}", "{colour2}", False),
        ("{He hero} ran", "{His hero} mom ran", True),
        ("{He hero} ran", "He ran", False),
        ("see {thing}", "see {flyer}", False),
    ],
)
def test_apart_finds_texts_that_begin_others(a: str, b: str, expected: bool) -> None:
    assert apart(atoms(a), atoms(b)) is apart(atoms(b), atoms(a)) is expected


def test_a_story_parses_back_to_the_one_derivation_with_its_nats(sample: list[tuple[str, float]]) -> None:
    drawn: set[str] = set()
    for text, nats in sample:
        (derivation,) = parse_story(text)
        assert derivation.nats == pytest.approx(nats, rel=1e-12)
        drawn |= derivation.choices.keys()
    assert drawn == set(GRAMMAR), "the sample reaches every table"


def test_a_text_that_is_not_a_story_does_not_parse(sample: list[tuple[str, float]]) -> None:
    text, _ = sample[0]
    assert parse_story(text[:-1]) == parse_story(text + " ") == parse_story("Call me Ishmael.") == []
