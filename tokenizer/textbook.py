"""Byte-level BPE as the textbook writes it. Read this file first; the fast tokenizer is tested against it.

>>> text = 5 * "low " + 2 * "lower " + 3 * "widest " + 6 * "newest "
>>> vocab, merges = train(pretokenize(text), vocab_size=256 + 9)
>>> [left + right for left, right in merges]  # "e" + "s" is as frequent as "s" + "t", but smaller
[b'st', b'est', b'ow', b'low', b'west', b'ne', b'newest', b' newest', b' low']
>>> ids = encode(pretokenize("newest lowest"), vocab, merges)
>>> ids, [vocab[i] for i in ids], decode(ids, vocab)
([262, 264, 257], [b'newest', b' low', b'est'], 'newest lowest')
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import regex

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Word = tuple[bytes, ...]  # the tokens of a piece of text; no merge crosses from one piece to the next
Pair = tuple[bytes, bytes]
Vocab = dict[int, bytes]


def pretokenize(text: str) -> list[Word]:
    """Cut text into words by GPT-2's pattern. The tokens of a word are single bytes at first."""
    return [tuple(bytes([byte]) for byte in piece.encode()) for piece in regex.findall(GPT2, text)]


def count_pairs(words: Mapping[Word, int]) -> Counter[Pair]:
    """Count the pairs of neighbouring tokens in words, given how often each word occurs."""
    counts: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            counts[pair] += count
    return counts


def merge(word: Word, pair: Pair) -> Word:
    """Join a pair into one token wherever it occurs in a word, from left to right.

    >>> merge((b"a", b"a", b"a", b"b"), (b"a", b"a"))
    (b'aa', b'a', b'b')
    """
    tokens = list(word)
    for i in range(len(tokens)):
        if tuple(tokens[i : i + 2]) == pair:
            tokens[i : i + 2] = [b"".join(pair)]
    return tuple(tokens)


def train(words: Iterable[Word], vocab_size: int, specials: Sequence[str] = ()) -> tuple[Vocab, list[Pair]]:
    """Merge the most frequent pair, in a tie the greatest, until the vocabulary is full; return it and the merges."""
    counts: Mapping[Word, int] = Counter(words)
    tokens = [token.encode() for token in specials] + [bytes([byte]) for byte in range(256)]
    merges: list[Pair] = []
    while len(tokens) < vocab_size and (pairs := count_pairs(counts)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        counts = {merge(word, best): count for word, count in counts.items()}
        merges.append(best)
        tokens.append(b"".join(best))
    return dict(enumerate(tokens)), merges


def encode(words: Iterable[Word], vocab: Vocab, merges: Sequence[Pair]) -> list[int]:
    """Repeat the earliest merge that fits, at its leftmost place, until none fits; return the ids of the tokens."""
    ids = {token: i for i, token in vocab.items()}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    result: list[int] = []
    for tokens in map(list, words):
        while places := [(ranks[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in ranks]:
            _, i = min(places)
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        result += [ids[token] for token in tokens]
    return result


def decode(ids: Iterable[int], vocab: Vocab) -> str:
    """Return the text of ids."""
    return b"".join(vocab[i] for i in ids).decode(errors="replace")
