"""Mistakes of BPE training."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

from parity.mistakes.mistake import mistake
from parity.oracle.bpe import (
    Pair,
    Vocab,
    Word,
    best_pair,
    count_pairs,
    count_words,
    first_tokens,
    merge,
    num_merges,
    split_specials,
)

Words = Counter[Word]
Merges = list[Pair]
_train = partial(
    mistake, source="Sennrich et al., 2016, algorithm 1; the course's assignment 1, sections 2.4 and 2.5"
)
_tie = partial(
    _train,
    replaces="best_pair",
    formula="max(counts, key=lambda pair: (counts[pair], pair)), with a pair of bytes objects",
    pitfall="Ties between pairs of tokens",
)
_words = partial(
    _train,
    replaces="count_words",
    formula="cut at special tokens, drop them; then count regex.findall(GPT-2's pattern, part) of each part",
    pitfall="Special tokens in the training text",
)
_size = partial(
    _train,
    replaces="num_merges",
    formula="len(merges) = vocab_size - 256 - len(special_tokens), or less if no pair is left",
    pitfall="The size of a vocabulary",
)
_pairs = partial(
    _train,
    replaces="count_pairs",
    formula="counts[pair] += count of the word, for each pair of neighbours in each word",
    pitfall="Pairs that overlap",
)


@_tie("BPE: the smaller pair wins ties")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the smaller is merged. The first tie changes all merges after it."""
    return min(counts, key=lambda pair: (-counts[pair], pair), default=None)


@_tie("BPE: the pair that was seen first wins ties")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the one that was counted first is merged, as max() over the counts alone does. The
    merges then depend on the order of the text."""
    return max(counts, key=lambda pair: counts[pair], default=None)


@_tie("BPE: the pair that was seen last wins ties")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the one that was counted last is merged. The merges then depend on the order of the
    text."""
    return max(reversed(list(counts)), key=lambda pair: counts[pair], default=None)


@_tie("BPE: ties are compared by ids")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the one with larger token ids is merged. Merged tokens have large ids, whatever
    their bytes are."""
    ids = {token: i for i, token in enumerate(tokens)}
    return max(counts, key=lambda pair: (counts[pair], ids[pair[0]], ids[pair[1]]), default=None)


@_tie("BPE: ties are compared by the joined bytes")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the one whose joined bytes are larger is merged. (b"ab", b"c") and (b"a", b"bd")
    compare differently as pairs."""
    return max(counts, key=lambda pair: (counts[pair], pair[0] + pair[1], pair), default=None)


@_tie("BPE: ties are compared by the second token first")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the one with the larger second token is merged. The order of pairs begins with the
    first token."""
    return max(counts, key=lambda pair: (counts[pair], pair[::-1]), default=None)


@_tie("BPE: ties are compared by GPT-2's printable characters")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the one that is larger in GPT-2's printable alphabet is merged. In that alphabet a
    space, U+0120, is larger than all letters."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    order = {byte: byte if byte in printable else 256 + others.index(byte) for byte in range(256)}
    keys = {token: [order[byte] for byte in token] for pair in counts for token in pair}
    return max(counts, key=lambda pair: (counts[pair], keys[pair[0]], keys[pair[1]]), default=None)


@_tie("BPE: the longer token wins ties")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Of equally frequent pairs the one with more bytes is merged. Only the order of bytes should decide."""
    return max(counts, key=lambda pair: (counts[pair], len(pair[0] + pair[1]), pair), default=None)


@_tie("BPE: merging stops at pairs that occur once")
def _(counts: Mapping[Pair, int], tokens: Sequence[bytes]) -> Pair | None:
    """Training stops when no pair occurs twice. The vocabulary is then smaller than vocab_size."""
    pair = best_pair(counts, tokens)
    return pair if pair and counts[pair] > 1 else None


@_pairs("BPE: overlapping pairs are counted once")
def _(words: Mapping[Word, int]) -> Counter[Pair]:
    """In `aaa` the pair (a, a) is counted once instead of twice. Runs of one character then merge later."""
    counts: Counter[Pair] = Counter()
    for word, count in words.items():
        last: tuple[Pair, int] | None = None
        for i, pair in enumerate(pairwise(word)):
            if last == (pair, i - 1):
                last = None
            else:
                counts[pair] += count
                last = pair, i
    return counts


@_pairs("BPE: a pair is counted once in a word")
def _(words: Mapping[Word, int]) -> Counter[Pair]:
    """A pair that occurs several times in a word is counted once. Words with repetitions count too little."""
    counts: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in dict.fromkeys(pairwise(word)):
            counts[pair] += count
    return counts


@_pairs("BPE: each distinct word counts once")
def _(words: Mapping[Word, int]) -> Counter[Pair]:
    """A word's frequency is ignored. A rare word counts as much as a frequent one."""
    return count_pairs(dict.fromkeys(words, 1))


_merge = partial(
    _train,
    replaces="merge",
    formula="from left to right, wherever tokens[i], tokens[i + 1] is the pair: join them, continue after them",
    pitfall="Pairs that overlap",
)


@_merge("BPE: only the first place in a word is merged")
def _(word: Word, pair: Pair) -> Word:
    """A pair is joined once in each word. The other places in the word keep the pair for ever."""
    for i in range(len(word) - 1):
        if word[i : i + 2] == pair:
            return (*word[:i], b"".join(pair), *word[i + 2 :])
    return word


@_merge("BPE: merging from the right")
def _(word: Word, pair: Pair) -> Word:
    """Pairs are joined from right to left. In `aaa` the last two are joined instead of the first two."""
    tokens = list(word)
    for i in reversed(range(len(tokens) - 1)):
        if tuple(tokens[i : i + 2]) == pair:
            tokens[i : i + 2] = [b"".join(pair)]
    return tuple(tokens)


@_train(
    "BPE: counts are not updated after a merge",
    "train_bpe",
    formula="after each merge, count the pairs of the merged words",
    pitfall="Pairs that overlap",
)
def _(text: str, vocab_size: int, specials: Sequence[str]) -> tuple[Vocab, Merges]:
    """The pairs are counted once, at the start. No merged token is ever merged again, so all tokens have at most
    two bytes."""
    counts = count_pairs(count_words(text, specials))
    tokens, merges = first_tokens(specials), Merges()
    while len(merges) < num_merges(vocab_size, specials) and (pair := best_pair(counts, tokens)):
        del counts[pair]
        merges.append(pair)
        tokens.append(b"".join(pair))
    return dict(enumerate(tokens)), merges


@_train(
    "BPE: pairs that a merge removes stay counted",
    "train_bpe",
    formula="after each merge, count the pairs of the merged words",
    pitfall="Pairs that overlap",
)
def _(text: str, vocab_size: int, specials: Sequence[str]) -> tuple[Vocab, Merges]:
    """A merge adds the counts of its new pairs, but does not subtract those of the neighbours that it takes apart.
    Pairs that no longer exist are merged."""
    words: Words = count_words(text, specials)
    counts = count_pairs(words)
    tokens, merges = first_tokens(specials), Merges()
    while len(merges) < num_merges(vocab_size, specials) and (pair := best_pair(counts, tokens)):
        joined = b"".join(pair)
        words = Counter({merge(word, pair): count for word, count in words.items()})
        counts += Counter({p: n for p, n in count_pairs(words).items() if joined in p})
        del counts[pair]
        merges.append(pair)
        tokens.append(joined)
    return dict(enumerate(tokens)), merges


@_words("BPE: special tokens are cut off but counted")
def _(text: str, specials: Sequence[str]) -> Words:
    """The text is cut at special tokens, but the special tokens themselves are counted as words. re.split with a
    group returns them."""
    return sum((count_words(part, []) for part in split_specials(text, specials)), Counter())


@_words("BPE: special tokens are removed but do not cut")
def _(text: str, specials: Sequence[str]) -> Words:
    """Special tokens are deleted, and what stood on both sides is joined. Words of two documents then melt into
    one."""
    for special in sorted(specials, key=len, reverse=True):
        text = text.replace(special, "")
    return count_words(text, [])


@_words("BPE: special tokens are not escaped, so parts of the text vanish")
def _(text: str, specials: Sequence[str]) -> Words:
    """The special tokens are a pattern without re.escape, in which `|` means "or". `<`, `endoftext` and `>` are
    then cut out of the text."""
    parts = re.split("|".join(specials), text) if specials else [text]
    return sum((count_words(part, []) for part in parts), Counter())


@_words("BPE: only the first special token cuts")
def _(text: str, specials: Sequence[str]) -> Words:
    """The text is cut at the first special token of the list only. The others are counted as text."""
    return count_words(text, specials[:1])


@_words("BPE: each line by itself", pitfall="Text that is cut before it is pre-tokenized")
def _(text: str, specials: Sequence[str]) -> Words:
    """The text is cut into lines before it is pre-tokenized. Runs of newlines are then counted one by one."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    return sum((count_words(line, specials) for line in lines), Counter())


@_words("BPE: newlines are dropped", pitfall="Text that is cut before it is pre-tokenized")
def _(text: str, specials: Sequence[str]) -> Words:
    """The text is read line by line, and each line's end is stripped. No newline is ever counted."""
    return sum((count_words(line.rstrip("\n"), specials) for line in text.split("\n")), Counter())


@_words(
    "BPE: the text is cut into chunks inside words", pitfall="Text that is cut before it is pre-tokenized"
)
def _(text: str, specials: Sequence[str]) -> Words:
    """The text is cut into chunks of equal size, which need not end where a special token begins. Words at the
    borders are counted in two halves."""
    places = [len(text) * i // 4 for i in range(5)]
    return sum((count_words(text[a:b], specials) for a, b in pairwise(places)), Counter())


@_words("BPE: only ASCII is counted", pitfall="")
def _(text: str, specials: Sequence[str]) -> Words:
    """Characters outside ASCII are dropped, or read with errors="ignore". Their bytes are never merged."""
    return count_words(text.encode("ascii", "ignore").decode(), specials)


@_words("BPE: tokens are characters", pitfall="", formula='word.encode("utf-8"), one token for each byte')
def _(text: str, specials: Sequence[str]) -> Words:
    """Words begin as characters instead of bytes. Characters of several bytes are never built by merges."""
    words: Words = Counter()
    for word, count in count_words(text, specials).items():
        words[tuple(char.encode() for char in b"".join(word).decode())] += count
    return words


@_size("BPE: special tokens are not part of vocab_size")
def _(vocab_size: int, specials: Sequence[str]) -> int:
    """The special tokens are added to vocab_size. The vocabulary has one token too many for each."""
    return vocab_size - 256


@_size("BPE: bytes are not part of vocab_size")
def _(vocab_size: int, specials: Sequence[str]) -> int:
    """vocab_size merges are learned. The vocabulary has 256 tokens too many, and the special tokens."""
    return vocab_size


@_size("BPE: one merge too few")
def _(vocab_size: int, specials: Sequence[str]) -> int:
    """Training stops one merge early. The vocabulary has vocab_size - 1 tokens."""
    return num_merges(vocab_size, specials) - 1


@_size("BPE: one merge too many")
def _(vocab_size: int, specials: Sequence[str]) -> int:
    """Training stops one merge late. The vocabulary has vocab_size + 1 tokens."""
    return num_merges(vocab_size, specials) + 1


@_train(
    "BPE: special tokens are not in the vocabulary",
    "first_tokens",
    formula="vocab = special tokens + 256 bytes + merges",
    pitfall="The size of a vocabulary",
)
def _(specials: Sequence[str]) -> list[bytes]:
    """The vocabulary lacks the special tokens. A tokenizer of this vocabulary cannot encode them."""
    return first_tokens([])
