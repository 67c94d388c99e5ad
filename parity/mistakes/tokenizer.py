"""Mistakes of encoding and decoding."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from parity.mistakes.mistake import mistake
from parity.oracle.bpe import Pair, Vocab, Word, apply_merges, decode_ids, encode_text, merge, split_specials

_section = "Sennrich et al., 2016; the course's assignment 1, section 2.6"
_apply = partial(
    mistake,
    replaces="apply_merges",
    formula="while a pair of neighbours is a merge: join the pair that was learned first",
    source=_section,
    pitfall="Encoding by merges or by the longest token",
)
_specials = partial(
    mistake,
    replaces="split_specials",
    formula='re.split("(" + "|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True))) + ")", text)',
    source=_section,
    pitfall="Special tokens that begin alike",
)
_encode = partial(mistake, replaces="encode_text", source=_section)
_decode = partial(
    mistake,
    replaces="decode_ids",
    formula='b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace")',
    source=_section,
    pitfall="Tokens that are parts of characters",
)
_iterable = partial(
    mistake,
    replaces="encode_iterable",
    formula="the ids of the concatenated texts, one by one, each as soon as no later text can change it",
    source=_section,
    pitfall="Texts that arrive in pieces",
)


@_apply("encode: the longest token first")
def _(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """At each place the longest token of the vocabulary is taken. BPE applies merges in the order in which they
    were learned, which gives other tokens."""
    text, known, tokens = b"".join(word), set(vocab.values()), list[bytes]()
    while text:
        tokens.append(next(text[:n] for n in range(len(text), 0, -1) if text[:n] in known))
        text = text[len(tokens[-1]) :]
    return tuple(tokens)


@_apply("encode: the first pair from the left")
def _(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """The first pair from the left that is a merge is joined, whichever merge it is. Merges that were learned
    earlier come first."""
    tokens, known = list(word), set(merges)
    while places := [i for i, pair in enumerate(pairwise(tokens)) if pair in known]:
        tokens[places[0] : places[0] + 2] = [tokens[places[0]] + tokens[places[0] + 1]]
    return tuple(tokens)


@_apply("encode: the last merge first")
def _(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """Of the pairs that are merges, the one that was learned last is joined first. Merges apply in the order in
    which they were learned."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while pairs := [pair for pair in pairwise(word) if pair in ranks]:
        word = merge(word, max(pairs, key=ranks.__getitem__))
    return word


@_apply("encode: one merge for each word")
def _(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """Merging ends after the first merge that fits. Words stay in small tokens."""
    pairs = set(pairwise(word))
    first = next((pair for pair in merges if pair in pairs), None)
    return merge(word, first) if first else word


@_apply("encode: no merges")
def _(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """The merges are not applied. Every byte is a token."""
    return word


@_apply("encode: words of the vocabulary are not merged")
def _(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """A word that is a token of the vocabulary becomes that token at once. The merges need not lead there."""
    joined = b"".join(word)
    return (joined,) if joined in vocab.values() else apply_merges(word, merges, vocab)


@_apply("encode: the order of ids in place of the order of merges")
def _(word: Word, merges: Sequence[Pair], vocab: Vocab) -> Word:
    """The pair whose joined token has the smallest id is merged first, as tiktoken does. In a vocabulary whose ids
    are in another order than the merges this gives other tokens."""
    ids = {token: i for i, token in vocab.items()}
    while pairs := [pair for pair in pairwise(word) if b"".join(pair) in ids]:
        word = merge(word, min(pairs, key=lambda pair: ids[b"".join(pair)]))
    return word


@_specials("special tokens: taken as text")
def _(text: str, specials: Sequence[str]) -> list[str]:
    """Special tokens are not cut out of the text. Their characters are counted in training, and encoded one by one."""
    return [text]


@_specials("special tokens: in the order of the list")
def _(text: str, specials: Sequence[str]) -> list[str]:
    """Where several special tokens fit, the first of the list is taken. A longer one that begins with it is never
    found."""
    return re.split(f"({'|'.join(map(re.escape, specials))})", text) if specials else [text]


@_specials("special tokens: the shortest first")
def _(text: str, specials: Sequence[str]) -> list[str]:
    """Where several special tokens fit, the shortest is taken. A longer one that begins with it is never found."""
    ordered = sorted(specials, key=len)
    return re.split(f"({'|'.join(map(re.escape, ordered))})", text) if specials else [text]


@_specials("special tokens: not escaped in the pattern")
def _(text: str, specials: Sequence[str]) -> list[str]:
    """The special tokens are a pattern without re.escape, in which `|` means "or". The text is cut at `<`,
    `endoftext` and `>`, and no special token is found."""
    return re.split(f"({'|'.join(sorted(specials, key=len, reverse=True))})", text) if specials else [text]


@_specials("special tokens: an empty list cuts everywhere")
def _(text: str, specials: Sequence[str]) -> list[str]:
    """Without special tokens the pattern is empty, and an empty pattern cuts at every character. No merge applies."""
    return split_specials(text, specials) if specials else list(text)


@_specials("special tokens: the text around them is stripped")
def _(text: str, specials: Sequence[str]) -> list[str]:
    """The parts between special tokens are stripped. The white space at their ends is lost."""
    parts = split_specials(text, specials)
    return [part if part in specials else part.strip() for part in parts]


@_encode("encode: special tokens are dropped", formula="a special token is one id")
def _(text: str, vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> list[int]:
    """The text is cut at special tokens, but their ids are not returned. Decoding does not give the text back."""
    parts = (part for part in split_specials(text, specials) if part not in specials)
    return [i for part in parts for i in encode_text(part, vocab, merges, [])]


@_encode("encode: bytes that were not merged are dropped", formula="each of the 256 bytes is a token")
def _(text: str, vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> list[int]:
    """Bytes of characters outside ASCII that no merge joined are left out. Decoding does not give the text back."""
    ids = encode_text(text, vocab, merges, specials)
    return [i for i in ids if len(vocab.get(i, b"..")) > 1 or vocab[i] < b"\x80"]


@_encode("encode: white space at the ends is lost", formula="decode(encode(text)) == text")
def _(text: str, vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> list[int]:
    """The text is stripped before it is encoded. Decoding does not give the text back."""
    return encode_text(text.strip(), vocab, merges, specials)


@_decode("decode: each token by itself")
def _(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """Each token's bytes are decoded alone. A character whose bytes are spread over several tokens becomes U+FFFD."""
    return "".join(vocab[i].decode(errors="replace") for i in ids)


@_decode("decode: invalid bytes are dropped")
def _(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """The bytes are decoded with errors="ignore". Bytes that are no UTF-8 vanish, where U+FFFD should stand."""
    return b"".join(vocab[i] for i in ids).decode(errors="ignore")


@_decode("decode: invalid bytes raise an error")
def _(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """The bytes are decoded strictly. A model may generate any ids, so decoding fails sooner or later."""
    return b"".join(vocab[i] for i in ids).decode()


@_decode("decode: bytes as Latin-1")
def _(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """Each byte becomes one character. Characters outside ASCII become two or more wrong ones."""
    return b"".join(vocab[i] for i in ids).decode("latin-1")


@_decode("decode: special tokens are dropped")
def _(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """Special tokens are left out of the text. Decoding does not give the text back."""
    return decode_ids((i for i in ids if vocab[i].decode(errors="replace") not in specials), vocab)


@_decode("decode: a space between tokens")
def _(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """Tokens are joined by spaces. A token holds its space already."""
    return b" ".join(vocab[i] for i in ids).decode(errors="replace")


@_decode("decode: white space at the ends is lost")
def _(ids: Iterable[int], vocab: Vocab, specials: Sequence[str] = ()) -> str:
    """The text is stripped. Texts that begin with a space lose it."""
    return decode_ids(ids, vocab).strip()


@_iterable("encode_iterable: each text by itself")
def _(texts: Iterable[str], vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> Iterator[int]:
    """Each text of the iterable is encoded alone. A piece that is cut by a border, such as a run of newlines, gives
    other ids than in the whole text."""
    for text in texts:
        yield from encode_text(text, vocab, merges, specials)


@_iterable("encode_iterable: line ends are lost")
def _(texts: Iterable[str], vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> Iterator[int]:
    """The end of each text is stripped. Newlines are lost."""
    for text in texts:
        yield from encode_text(text.rstrip("\n"), vocab, merges, specials)


@_iterable("encode_iterable: the ends of texts are stripped")
def _(texts: Iterable[str], vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> Iterator[int]:
    """White space at both ends of each text is stripped. Newlines and spaces at borders are lost."""
    for text in texts:
        yield from encode_text(text.strip(), vocab, merges, specials)


@_iterable("encode_iterable: lists in place of ids")
def _(
    texts: Iterable[str], vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]
) -> Iterator[list[int]]:
    """A list of ids is yielded for each text: `yield` stands where `yield from` should stand. The caller expects
    ids."""
    for text in texts:
        yield encode_text(text, vocab, merges, specials)


@_iterable("encode_iterable: special tokens are taken as text")
def _(texts: Iterable[str], vocab: Vocab, merges: Sequence[Pair], specials: Sequence[str]) -> Iterator[int]:
    """Special tokens are recognized by encode, but not by encode_iterable. Their characters are encoded one by
    one."""
    yield from encode_text("".join(texts), vocab, merges, [])


@mistake(
    "encode_iterable: everything is read first",
    "texts_before_first_id",
    formula="yield the ids of a text before the next text is read, except for its last piece",
    source=_section,
    pitfall="Texts that arrive in pieces",
)
def _(texts: int) -> int:
    """The first id comes after the last text has been read. Files that do not fit into memory cannot be encoded."""
    return texts
