"""Byte-level BPE in small functions that known mistakes can replace, independent of the package `tokenizer`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import regex

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Word = tuple[bytes, ...]
Pair = tuple[bytes, bytes]
Vocab = dict[int, bytes]


def split_specials(text: str, specials: Sequence[str]) -> list[str]:
    """Cut text before and after each special token. The longest that fits counts."""
    pattern = "|".join(map(regex.escape, sorted(specials, key=len, reverse=True)))
    return regex.split(f"({pattern})", text) if specials else [text]


def pretokenize(text: str) -> list[str]:
    """Cut text into the pieces that no merge crosses, by GPT-2's pattern."""
    return list(regex.findall(PATTERN, text))


def single_bytes(text: str) -> Word:
    """Return the bytes of a text as tokens."""
    return tuple(bytes([byte]) for byte in text.encode())


def count_words(text: str, specials: Sequence[str]) -> Counter[Word]:
    """Count the pieces of a text between special tokens, each as a tuple of bytes."""
    pieces = [piece for piece in split_specials(text, specials) if piece not in specials]
    return Counter(single_bytes(part) for piece in pieces for part in pretokenize(piece))


def count_pairs(words: Mapping[Word, int]) -> Counter[Pair]:
    """Count neighbouring tokens, also where two pairs overlap, each as often as its word occurs."""
    counts: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            counts[pair] += count
    return counts


def best_pair(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Return the most frequent pair, in a tie the one that is larger in lexicographic order of bytes."""
    return max(counts, key=lambda pair: (counts[pair], pair), default=None)


def merge(word: Word, pair: Pair) -> Word:
    """Join a pair wherever it occurs in a word, from left to right."""
    tokens = list(word)
    for i in range(len(tokens)):
        if tuple(tokens[i : i + 2]) == pair:
            tokens[i : i + 2] = [b"".join(pair)]
    return tuple(tokens)


def num_merges(vocab_size: int, specials: Sequence[str]) -> int:
    """Return how many merges fill a vocabulary beside the 256 bytes and the special tokens."""
    return vocab_size - 256 - len(specials)


def first_tokens(specials: Sequence[str]) -> list[bytes]:
    """Return the tokens that a vocabulary begins with."""
    return [bytes([byte]) for byte in range(256)] + [special.encode() for special in specials]


def train_bpe(text: str, vocab_size: int, specials: Sequence[str]) -> tuple[Vocab, list[Pair]]:
    """Merge the best pair until the vocabulary is full or no pair is left; return the vocabulary and the merges."""
    words: Mapping[Word, int] = count_words(text, specials)
    tokens, merges = first_tokens(specials), list[Pair]()
    while len(merges) < num_merges(vocab_size, specials) and (pair := best_pair(count_pairs(words), tokens)):
        merged: Counter[Word] = Counter()
        for word, count in words.items():
            merged[merge(word, pair)] += count
        words = merged
        merges.append(pair)
        tokens.append(b"".join(pair))
    return dict(enumerate(tokens)), merges


def apply_merges(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """Apply all merges to a word in the order in which they were learned."""
    for pair in merges:
        word = merge(word, pair)
    return word


def encode_text(text: str, vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> list[int]:
    """Return the ids of a text. A special token that the vocabulary lacks is added to its end."""
    ids = {token: i for i, token in vocab.items()}
    for special in specials:
        ids.setdefault(special.encode(), len(ids))
    tokens: list[bytes] = []
    for piece in split_specials(text, specials):
        if piece in specials:
            tokens.append(piece.encode())
        else:
            for part in pretokenize(piece):
                tokens += apply_merges(single_bytes(part), merges, vocab)
    return [ids[token] for token in tokens]


def decode_ids(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """Return the text of ids. Bytes that are no UTF-8 become U+FFFD."""
    return b"".join(vocab[i] for i in ids).decode(errors="replace")


def encode_iterable(
    texts: Iterable[str], vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]
) -> Iterator[int | list[int]]:
    """Yield the ids of the texts' concatenation."""
    yield from encode_text("".join(texts), vocab, merges, specials)


def texts_before_first_id(texts: int) -> int:
    """Return how many of many texts a right encoder has read, at most, when its first id comes."""
    return texts // 2
