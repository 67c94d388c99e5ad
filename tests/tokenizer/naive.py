"""The oracle: a trainer and an encoder too slow to use and too short to be wrong."""

from collections import Counter
from itertools import pairwise

import regex

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def cut(text: str, pattern: str) -> list[str]:
    """Return the pieces of `text` between all places where a match starts or ends."""
    edges = {0, len(text)} | {edge for match in regex.finditer(pattern, text) for edge in match.span()}
    return [text[start:end] for start, end in pairwise(sorted(edges))]


def pretokens(text: str, special_tokens: list[str], pattern: str = GPT2) -> list[tuple[str, bool]]:
    """Return (pre-token, is it a special token), special tokens leftmost and longest first."""
    result: list[tuple[str, bool]] = []
    ordinary = i = 0
    while i <= len(text):
        found = max((s for s in special_tokens if text.startswith(s, i)), key=len, default=None)
        if found is None and i < len(text):
            i += 1
            continue
        result += [(piece, False) for piece in cut(text[ordinary:i], pattern)]
        if found is None:
            break
        result.append((found, True))
        ordinary = i = i + len(found)
    return result


def merge_pair(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Return `word` with `pair` merged wherever it occurs, from the left."""
    merged, i = [], 0
    while i < len(word):
        size = 2 if tuple(word[i : i + 2]) == pair else 1
        merged.append(b"".join(word[i : i + size]))
        i += size
    return merged


def train(
    text: str, vocab_size: int, special_tokens: list[str], pattern: str = GPT2
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Count every pair in every distinct word anew before each merge."""
    counted = Counter(piece for piece, special in pretokens(text, special_tokens, pattern) if not special)
    words = [([bytes([b]) for b in piece.encode()], count) for piece, count in counted.items()]
    tokens = [s.encode() for s in special_tokens] + [bytes([i]) for i in range(256)]
    merges: list[tuple[bytes, bytes]] = []
    while len(tokens) < vocab_size:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        words = [(merge_pair(word, best), count) for word, count in words]
        merges.append(best)
        tokens.append(best[0] + best[1])
    return dict(enumerate(tokens)), merges


def encode(
    text: str,
    vocab: dict[int, bytes],
    merges: list[tuple[bytes, bytes]],
    special_tokens: list[str],
    pattern: str = GPT2,
) -> list[int]:
    """Merge the leftmost pair of lowest rank until none is left."""
    ids = {token: i for i, token in vocab.items()}
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    result: list[int] = []
    for piece, special in pretokens(text, special_tokens, pattern):
        word = [piece.encode()] if special else [bytes([b]) for b in piece.encode()]
        while True:
            ranked = [(ranks[pair], i) for i, pair in enumerate(pairwise(word)) if pair in ranks]
            if not ranked:
                break
            _, i = min(ranked)
            word[i : i + 2] = [word[i] + word[i + 1]]
        result += [ids[token] for token in word]
    return result
