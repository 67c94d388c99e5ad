"""BPE in another hand: tokens are numbers, special tokens are found by scanning, merges by their ranks."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex

Pair = tuple[bytes, bytes]
LETTERS, DIGITS, OTHERS = r"\p{L}", r"\p{N}", r"[^\s\p{L}\p{N}]"
_PLAIN = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
PRINTABLE = {byte: i + 0x100 for i, byte in enumerate(sorted({*range(256)} - {*_PLAIN}))} | {
    b: b for b in _PLAIN
}
"""GPT-2's printable character of each byte."""


def pieces(text: str, wrong: str) -> list[str]:
    wrong = wrong.removeprefix("pre-tokens: ")
    match wrong:
        case "none":
            return [text] if text else []
        case "cut at white space, which is dropped":
            return text.split()
        case "cut before spaces only":
            first, *others = text.split(" ")
            return [piece for piece in (first, *(f" {other}" for other in others)) if piece]
        case "lower case":
            text = text.lower()
    space = "" if wrong in ("spaces are words of their own", "spaces are dropped") else " ?"
    kinds = [LETTERS + "+", DIGITS + "+", OTHERS + "+"]
    if wrong == "letters and digits together":
        kinds = [r"\w+", r"[^\s\w]+"]
    if wrong == "letters of ASCII only":
        kinds = ["[a-zA-Z]+", "[0-9]+", r"[^\sa-zA-Z0-9]+"]
    parts = [space + kind for kind in kinds]
    if wrong != "contractions are not cut":
        parts = ["'s|'t|'re|'ve|'m|'ll|'d", *parts]
    if wrong not in ("runs of spaces swallow the last one", "spaces are dropped"):
        parts.append(r"\s+(?!\S)")
    if wrong != "spaces are dropped":
        parts.append(r"\s+")
    return [match.group() for match in regex.finditer("|".join(parts), text)]


def cut(text: str, specials: Sequence[str], wrong: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a text, and whether each is a special token."""
    wrong = wrong.removeprefix("special tokens: ")
    if wrong == "taken as text":
        specials = []
    if not specials and wrong == "an empty list cuts everywhere":
        yield from ((char, False) for char in text)
        return
    if wrong == "not escaped in the pattern" and specials:
        for part in regex.split("(" + "|".join(sorted(specials, key=lambda s: -len(s))) + ")", text):
            yield part, False
        return
    order = {"in the order of the list": specials, "the shortest first": sorted(specials, key=len)}
    ranked = order.get(wrong, sorted(specials, key=lambda s: -len(s)))
    strip = wrong == "the text around them is stripped"
    start = i = 0
    while i < len(text):
        special = next((s for s in ranked if text.startswith(s, i)), None)
        if special is None:
            i += 1
            continue
        yield text[start:i].strip() if strip else text[start:i], False
        yield special, True
        start = i = i + len(special)
    yield text[start:].strip() if strip else text[start:], False


def parts_to_count(text: str, specials: Sequence[str], wrong: str) -> list[str]:
    match wrong.removeprefix("BPE: "):
        case "special tokens are cut off but counted":
            return [part for part, _ in cut(text, specials, "")]
        case "special tokens are removed but do not cut":
            return ["".join(part for part, special in cut(text, specials, "") if not special)]
        case "special tokens are not escaped, so parts of the text vanish":
            return list(regex.split("|".join(specials), text)) if specials else [text]
        case "only the first special token cuts":
            specials = specials[:1]
        case "each line by itself":
            return [p for line in text.splitlines(keepends=True) for p in parts_to_count(line, specials, "")]
        case "newlines are dropped":
            return [p for line in text.splitlines() for p in parts_to_count(line, specials, "")]
        case "the text is cut into chunks inside words":
            n = len(text)
            chunks = [text[: n // 4], text[n // 4 : n // 2], text[n // 2 : 3 * n // 4], text[3 * n // 4 :]]
            return [p for chunk in chunks for p in parts_to_count(chunk, specials, "")]
        case "only ASCII is counted":
            text = "".join(char for char in text if ord(char) < 128)
    return [part for part, special in cut(text, specials, wrong) if not special]


class Trainer:
    """The state of training: words as lists of token numbers."""

    def __init__(self, text: str, specials: Sequence[str], wrong: str) -> None:
        self.wrong = wrong.removeprefix("BPE: ")
        self.tokens = [bytes([i]) for i in range(256)]
        self.special = [s.encode() for s in specials]
        frequency: dict[str, int] = defaultdict(int)
        for part in parts_to_count(text, specials, wrong):
            for piece in pieces(part, wrong):
                frequency[piece] += 1
        of_char: dict[bytes, int] = {}
        self.words: list[tuple[list[int], int]] = []
        for piece, count in frequency.items():
            if self.wrong == "tokens are characters":
                word = [self.number(char.encode(), of_char) for char in piece]
            else:
                word = list(piece.encode())
            self.words.append((word, 1 if self.wrong == "each distinct word counts once" else count))
        self.first = self.counts()
        self.stale: dict[tuple[int, int], int] = dict(self.first)

    def number(self, token: bytes, known: dict[bytes, int]) -> int:
        if len(token) == 1:
            return token[0]
        if token not in known:
            known[token] = 10_000 + len(known)
            self.extra = {number: t for t, number in known.items()}
        return known[token]

    def bytes_of(self, number: int) -> bytes:
        return self.tokens[number] if number < len(self.tokens) else self.extra[number]

    def counts(self) -> dict[tuple[int, int], int]:
        counts: dict[tuple[int, int], int] = {}
        for word, count in self.words:
            found = [(word[i], word[i + 1]) for i in range(len(word) - 1)]
            if self.wrong == "a pair is counted once in a word":
                found = list(dict.fromkeys(found))
            i = 0
            while i < len(found):
                counts[found[i]] = counts.get(found[i], 0) + count
                skip = (
                    self.wrong == "overlapping pairs are counted once" and found[i : i + 2] == [found[i]] * 2
                )
                i += 2 if skip else 1
        return counts

    def key(self, pair: tuple[int, int]) -> Any:
        a, b = self.bytes_of(pair[0]), self.bytes_of(pair[1])
        if "printable" in self.wrong:
            return [[PRINTABLE[byte] for byte in token] for token in (a, b)]
        return {
            "ties are compared by ids": pair,
            "ties are compared by the joined bytes": (a + b, a),
            "ties are compared by the second token first": (b, a),
            "the longer token wins ties": (len(a) + len(b), a, b),
        }.get(self.wrong, (a, b))

    def best(self) -> tuple[int, int] | None:
        counts = self.counts()
        if self.wrong == "counts are not updated after a merge":
            counts = self.first
        if self.wrong == "pairs that a merge removes stay counted":
            counts = self.stale
        if not counts:
            return None
        most = max(counts.values())
        if self.wrong == "merging stops at pairs that occur once" and most == 1:
            return None
        tied = [pair for pair, count in counts.items() if count == most]
        match self.wrong:
            case "the smaller pair wins ties":
                return min(tied, key=self.key)
            case "the pair that was seen first wins ties":
                return tied[0]
            case "the pair that was seen last wins ties":
                return tied[-1]
        return max(tied, key=self.key)

    def join(self, pair: tuple[int, int]) -> None:
        new = len(self.tokens)
        self.tokens.append(self.bytes_of(pair[0]) + self.bytes_of(pair[1]))
        self.words = [(joined(word, pair, new, self.wrong), count) for word, count in self.words]
        self.first.pop(pair, None)
        for found, count in self.counts().items() if "stay counted" in self.wrong else ():
            if new in found:
                self.stale[found] = self.stale.get(found, 0) + count
        self.stale.pop(pair, None)


def joined(word: Sequence[Any], pair: tuple[Any, Any], new: Any, wrong: str) -> list[Any]:
    wrong = wrong.removeprefix("BPE: ")
    if wrong == "merging from the right":
        return joined(word[::-1], pair[::-1], new, "")[::-1]
    out: list[Any] = []
    once = False
    for token in word:
        if out and (out[-1], token) == pair and not once:
            out[-1] = new
            once = wrong == "only the first place in a word is merged"
        else:
            out.append(token)
    return out


def train(
    path: Path, vocab_size: int, specials: list[str], wrong: str
) -> tuple[dict[int, bytes], list[Pair]]:
    trainer = Trainer(Path(path).read_bytes().decode(), specials, wrong)
    number = vocab_size - 256 - len(specials)
    match wrong.removeprefix("BPE: "):
        case "special tokens are not part of vocab_size":
            number += len(specials)
        case "bytes are not part of vocab_size":
            number = vocab_size
        case "one merge too few":
            number -= 1
        case "one merge too many":
            number += 1
    merges: list[Pair] = []
    while len(merges) < number and (pair := trainer.best()):
        merges.append((trainer.bytes_of(pair[0]), trainer.bytes_of(pair[1])))
        trainer.join(pair)
    specials_too = [] if wrong == "BPE: special tokens are not in the vocabulary" else trainer.special
    return dict(enumerate(specials_too + trainer.tokens)), merges


class Tokenizer:
    """Encode by the rank of each neighbouring pair."""

    def __init__(
        self, vocab: dict[int, bytes], merges: list[Pair], specials: list[str] | None, wrong: str
    ) -> None:
        self.vocab, self.specials, self.wrong = vocab, specials or [], wrong
        self.ids = {token: i for i, token in vocab.items()}
        for special in self.specials:
            self.ids.setdefault(special.encode(), len(self.ids))
        self.rank = {pair: i for i, pair in enumerate(merges)}
        if wrong == "encode: the order of ids in place of the order of merges":
            self.rank = _Ids(self.ids)

    def encode(self, text: str) -> list[int]:
        if self.wrong == "encode: white space at the ends is lost":
            text = text.strip()
        out: list[int] = []
        for part, special in cut(text, self.specials, self.wrong):
            if special or part in self.specials:
                out += [] if self.wrong == "encode: special tokens are dropped" else [self.ids[part.encode()]]
                continue
            for piece in pieces(part, self.wrong):
                out += [self.ids[token] for token in self.tokens(piece.encode())]
        if self.wrong == "encode: bytes that were not merged are dropped":
            return [i for i in out if not (self.vocab.get(i, b"") >= b"\x80" and len(self.vocab[i]) == 1)]
        return out

    def tokens(self, piece: bytes) -> list[bytes]:
        word = [piece[i : i + 1] for i in range(len(piece))]
        match self.wrong.removeprefix("encode: "):
            case "no merges":
                return word
            case "the longest token first":
                return self.longest(piece)
            case "words of the vocabulary are not merged" if piece in self.ids:
                return [piece]
        while True:
            known = [(a, b) for a, b in pairwise(word) if (a, b) in self.rank]
            if not known:
                return word
            pair = min(known, key=self.rank.__getitem__)
            match self.wrong.removeprefix("encode: "):
                case "the first pair from the left":
                    i = next(i for i in range(len(word)) if (word[i], word[i + 1]) in self.rank)
                    word[i : i + 2] = [word[i] + word[i + 1]]
                    continue
                case "the last merge first":
                    pair = max(known, key=self.rank.__getitem__)
            before = word
            word = joined(word, pair, pair[0] + pair[1], self.wrong)
            if self.wrong == "encode: one merge for each word":
                return word
            if self.wrong == "BPE: only the first place in a word is merged":
                # Each merge is tried once, in order: what is left of it stays.
                self.rank = dict(self.rank)
                return self.once(before)

    def once(self, word: list[bytes]) -> list[bytes]:
        for pair in sorted(self.rank, key=self.rank.__getitem__):
            word = joined(word, pair, pair[0] + pair[1], self.wrong)
        return word

    def longest(self, piece: bytes) -> list[bytes]:
        if not piece:
            return []
        end = max(n for n in range(1, len(piece) + 1) if piece[:n] in self.ids)
        return [piece[:end], *self.longest(piece[end:])]

    def decode(self, ids: Iterable[int]) -> str:
        tokens = [self.vocab[i] for i in ids]
        match self.wrong.removeprefix("decode: "):
            case "each token by itself":
                return "".join(str(token, "utf-8", "replace") for token in tokens)
            case "invalid bytes are dropped":
                return str(b"".join(tokens), "utf-8", "ignore")
            case "invalid bytes raise an error":
                return str(b"".join(tokens), "utf-8")
            case "bytes as Latin-1":
                return "".join(chr(byte) for token in tokens for byte in token)
            case "special tokens are dropped":
                tokens = [token for token in tokens if token not in {s.encode() for s in self.specials}]
            case "a space between tokens":
                tokens = [t for token in tokens for t in (b" ", token)][1:]
        text = str(b"".join(tokens), "utf-8", "replace")
        return text.strip() if self.wrong == "decode: white space at the ends is lost" else text

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[Any]:
        """Encode what stands before the last special token or line end that cannot grow, and keep the rest."""
        match self.wrong.removeprefix("encode_iterable: "):
            case "each text by itself":
                for text in texts:
                    yield from self.encode(text)
                return
            case "line ends are lost":
                for text in texts:
                    yield from self.encode(text.rstrip("\n"))
                return
            case "the ends of texts are stripped":
                for text in texts:
                    yield from self.encode(text.strip())
                return
            case "lists in place of ids":
                for text in texts:
                    yield self.encode(text)
                return
            case "special tokens are taken as text":
                self.specials = []
            case "everything is read first":
                texts = ["".join(texts)]
        kept = ""
        for text in texts:
            kept += text
            # A letter before a space ends a piece, wherever no special token can begin.
            ends = [m.end() - 1 for m in regex.finditer(r"\p{L} (?=\p{L})", kept)]
            if ends and "<" not in kept:
                yield from self.encode(kept[: ends[-1]])
                kept = kept[ends[-1] :]
        yield from self.encode(kept)


class _Ids(dict[Pair, int]):
    """Ranks by the id of the joined token."""

    def __init__(self, ids: dict[bytes, int]) -> None:
        super().__init__()
        self.ids = ids

    def __contains__(self, pair: object) -> bool:
        return b"".join(pair) in self.ids  # type: ignore[arg-type]

    def __getitem__(self, pair: Pair) -> int:
        return self.ids[b"".join(pair)]
