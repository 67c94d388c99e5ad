"""The questions about texts: training, encoding, decoding. And the oracle's answers to them."""

from collections.abc import Mapping, Sequence
from typing import Any

from parity.check.child.texts import lazy, raised, trained
from parity.check.exact import Exact, Question, Reply
from parity.oracle import bpe

Merges = Sequence[tuple[bytes, bytes]]
END, PAD = "<|end|>", "<|end|><|pad|>"
"""Two special tokens, one of which begins with the other."""
OTHER = "[*pad*]"


# Training.

_WORDS = "low low low low low lower lower newest newest newest newest newest newest widest widest widest"
_TIES = "ab ab cd cd ef ef ba ba dc dc a b c d xab xab abx abx zy zy yz yz zyab zyab cdab cdab yzz yzz"
_RUNS = "aaaa aaaa aaa aa bbbbb bbb abab ababab abababab baba " * 3
_TEXT = (
    f"The cat's hat isn't the dog's.{END}\n\nIt'll rain 1984 times, they're sure!{END}  Two  spaces,   three;\n\n\n"
    f"and\tabc123 abc123 123abc x_y x_y. naïve café café Ünïcödé 日本語 日本語 日本 🙂🙂 🙂{END}{END} word{END}word "
    f"wo{END}rd  rd{PAD}end end pad pad pad <|x|> <|x|> <|x|> end|> <|en end{PAD} THE The the HELLO Hello hello \n"
    f" \n  x\n  x\n\n\n\n y   {END}\n\n {END}"
)
_CHUNKED = "pq" * 333 + " " + "xy" * 331 + " "


def _train(what: str, text: str, merges: int, specials: Sequence[str] = (), beyond: bool = False) -> Question:
    arguments = {"text": text, "vocab_size": 256 + len(specials) + merges, "specials": list(specials)}
    return Question(what, "train_bpe", arguments, beyond)


_TRAINING = (
    _train("ties", _TIES, 12),
    _train("words of the textbook", _WORDS, 12),
    _train("runs of one letter", _RUNS, 10),
    _train("a special token", _TEXT, 40, [END]),
    _train("two special tokens", _TEXT.replace(PAD, OTHER) * 2, 60, [END, OTHER]),
    _train("one long word", _CHUNKED, 2),
    _train("a text without special tokens, with a list of them", _WORDS, 5, [END]),
    _train("two special tokens, one of which begins with the other", _TEXT, 30, [END, PAD], beyond=True),
    _train("two special tokens, the longer one first", _TEXT, 30, [PAD, END], beyond=True),
    _train("no pair is left", "abc ab", 40, [END], beyond=True),
    _train("an empty file", "", 3, beyond=True),
    _train("lines that end in \\r\\n", "a\r\nab\r\nab\r\n\r\nb\r\n", 4, beyond=True),
)


def _trained(question: Question) -> Any:
    a = question.arguments
    try:
        return trained(*bpe.train_bpe(a["text"], a["vocab_size"], a["specials"]))
    except Exception as error:  # a variant may fail
        return raised(error)


def _measure_merges(reply: Reply) -> list[str]:
    """Say how often the first wrong pair and the right one occur when they are merged."""
    right, answer, a = reply.right["merges"], reply.answer.get("merges", []), reply.question.arguments
    i = next((i for i, (x, y) in enumerate(zip(right, answer, strict=False)) if x != y), None)
    if i is None:
        return []
    words = dict(bpe.count_words(a["text"], a["specials"]))
    for pair in _pairs(right[:i]):
        words = {bpe.merge(word, pair): count for word, count in words.items()}
    counts = bpe.count_pairs(words)
    ours, theirs = _pairs([right[i], answer[i]])
    often = f"merge {i + 1} is {theirs}, of count {counts[theirs]}, not {ours}, of count {counts[ours]}"
    tie = ": of equally frequent pairs the larger is merged" if counts[theirs] == counts[ours] else ""
    return [often + tie]


def _pairs(pairs: Sequence[Sequence[str]]) -> list[bpe.Pair]:
    return [(left.encode("latin-1"), right.encode("latin-1")) for left, right in pairs]


def _train_code(question: Question, names: Mapping[str, str], right: Any, answer: Any) -> str:
    a = question.arguments
    merges = _pairs(right["merges"])
    places = [i for i, pair in enumerate(right["merges"]) if answer.get("merges", [])[i : i + 1] != [pair]]
    end = min(places[0] + 1, len(merges)) if places else len(merges)
    start = max(0, end - 4)
    return "\n".join(
        [
            f"text = {a['text']!r}",
            'Path("corpus.txt").write_bytes(text.encode())',
            f'vocab, merges = {names["function"]}("corpus.txt", {a["vocab_size"]}, {a["specials"]})',
            f"assert len(vocab) == {len(right['tokens'])}",
            f"assert merges[{start}:{end}] == {merges[start:end]}",
        ]
    )


# Encoding and decoding.


def _vocabulary(merges: Merges, specials: Sequence[str]) -> list[tuple[int, str]]:
    tokens = [bytes([i]) for i in range(256)] + [a + b for a, b in merges] + [s.encode() for s in specials]
    return [(i, token.decode("latin-1")) for i, token in enumerate(dict.fromkeys(tokens))]


_MERGES: Merges = (
    (b"B", b"C"),
    (b"A", b"B"),
    (b"C", b"D"),
    (b"A", b"AB"),
    (b"A", b"BC"),
    (b"D", b"D"),
    (b"DD", b"DD"),
)
"""Merges of which each order of applying them gives other tokens. Each token is what its own text is encoded to."""
_UNREACHABLE: Merges = ((b"B", b"C"), (b"A", b"B"), (b"C", b"D"), (b"AB", b"CD"))
"""The last merge makes a token that encoding never reaches, as in no vocabulary that was trained."""
_ACROSS: Merges = tuple(
    (left.encode("latin-1"), right.encode("latin-1"))
    for left, right in (
        "o ",
        "c1",
        "1a",
        "x_",
        "s,",
        " t",
        "  ",
        "\n\n",
        "\xa9f",
        "f\xc3",
        "'s",
        "s'",
        "'l",
        "! ",
        " '",
        "e'",
    )
)
"""Merges of neighbours that belong to different pieces, or that only another pattern leaves in one."""
_LEARNED: Merges = bpe.train_bpe(_TEXT * 2, 256 + 2 + 60, [END, PAD])[1]


def _use(
    what: str,
    use: str,
    inputs: Sequence[Any],
    merges: Merges = _LEARNED,
    specials: Sequence[str] | None = (END, PAD),
    vocab: list[tuple[int, str]] | None = None,
    beyond: bool = False,
) -> Question:
    arguments = {
        "vocab": vocab or _vocabulary(merges, [END, PAD]),
        "merges": [[token.decode("latin-1") for token in pair] for pair in merges],
        "specials": None if specials is None else list(specials),
        "uses": [[use, value] for value in inputs],
    }
    return Question(what, "tokenize", arguments, beyond)


_ORDERS = ["", "ABC", "BCD", "ABCD", "ABCDE", "AAB", "DDDDD", "AABC", "ABCABC BCBC"]
_SAMPLES = [
    "the hat",
    " The cat's hat, they're 1984 abc123 x_y!",
    "  two  spaces   \n\n\nand lines\n x \n",
    "café 日本語 🙂 naïve Ω",
    "HELLO Hello hello",
]
_PIECES = [
    "so to",
    "abc1ab",
    "x_y",
    "s, t",
    "t  t   x",
    "a\n\n\nb\n\n",
    "caf\xe9f\xe9",
    "it's 's's we'll e'",
    "a! b '",
]
_MARKED = [
    END,
    f"a{END}b",
    f"the {END} cat",
    f"{PAD}{END}{PAD} x",
    f"{END}{END}<|end|",
    f" {END}\n{END} \n\n",
]
_SHUFFLED = _vocabulary(_MERGES, [])[:256] + [
    (i, token) for i, (_, token) in enumerate(reversed(_vocabulary(_MERGES, [])[256:]), 256)
]

_ENCODING = (
    _use("the order of merges", "encode", _ORDERS, _MERGES, None),
    _use("no special tokens", "encode", [*_SAMPLES, f"a {END}"], specials=None),
    _use("an empty list of special tokens", "encode", [*_SAMPLES[:2], f"a {END}"], specials=[]),
    _use("texts", "encode", _SAMPLES),
    _use("merges that no piece holds", "encode", _PIECES, _ACROSS, None),
    _use("special tokens", "encode", _MARKED, specials=[END]),
    _use("special tokens, the longer one last", "encode", _MARKED),
    _use("special tokens, the longer one first", "encode", _MARKED, specials=[PAD, END]),
    _use("ids in another order than the merges", "encode", _ORDERS, _MERGES, None, _SHUFFLED, beyond=True),
    _use("a token that no merges lead to", "encode", ["ABCD", "ABCDE"], _UNREACHABLE, None, beyond=True),
    _use("a special token that the vocabulary lacks", "encode", ["a[x]b"], _MERGES, ["[x]"], beyond=True),
)


def _tokenizer(question: Question) -> tuple[bpe.Vocab, list[bpe.Pair], list[str]]:
    a = question.arguments
    vocab = {i: token.encode("latin-1") for i, token in a["vocab"]}
    return vocab, _pairs(a["merges"]), a["specials"] or []


def _used(question: Question) -> Any:
    return [_answer(use, value, *_tokenizer(question)) for use, value, *_ in question.arguments["uses"]]


def _answer(use: str, value: Any, vocab: bpe.Vocab, merges: list[bpe.Pair], specials: list[str]) -> Any:
    try:
        if use == "encode":
            return bpe.encode_text(value, vocab, merges, specials)
        if use == "encode_iterable":
            return list(bpe.encode_iterable(value, vocab, merges, specials))
        if use == "decode":
            return bpe.decode_ids(value, vocab, specials)
    except Exception as error:  # a variant may fail
        return raised(error)
    return lazy(bpe.texts_before_first_id(_TIMES), _TIMES)


_IDS = [
    [*b"The hat"],
    [*" café 日本".encode()],
    bpe.encode_text("naïve café 日本語 🙂🙂 Ω", dict(enumerate(bpe.first_tokens([]))), [], []),
    [0xC3],
    [*b"a", 0xF0, 0x9F, 0x99, *b"b", 0xFF, 0x82],
    [*b"  two \n"],
]
_TOKENS = {token.encode("latin-1"): i for i, token in _vocabulary(_LEARNED, [END, PAD])}
_WHOLE = [
    bpe.encode_text(text, {i: token for token, i in _TOKENS.items()}, _LEARNED, [END, PAD])
    for text in (" The cat's hat", f"{END}It'll rain{END}{PAD}", "日本語 🙂\n")
]

_DECODING = (
    _use("ids", "decode", [[], *_WHOLE]),
    _use("bytes", "decode", _IDS),
    _use("no special tokens", "decode", [_IDS[0], _WHOLE[0]], specials=None),
)

_LINES = f" The cat's hat, they're\n1984 abc123\nx_y. café 日本語 🙂\n{END}\nIt'll rain\n\ntwice{END}\n"
_APART = [
    ["\n\n", "\n\n", "x  ", " y"],
    ["the c", "at's ha", "t \U0001f642"],
    ["a <|e", "nd|> b<|end|><|", "pad|>"],
]
_TIMES = 300
_LONG = "The cat's hat isn't the dog's, " * 130

_STREAMING = (
    _use("the lines of a text", "encode_iterable", [[], _LINES.splitlines(keepends=True)]),
    _use("one text", "encode_iterable", [[_LINES]]),
    Question(
        "a text that never ends",
        "tokenize",
        {**_use("", "lazy", []).arguments, "uses": [["lazy", _LONG, _TIMES]]},
    ),
    _use(
        "texts that are cut inside words or runs of white space", "encode_iterable", _APART[:2], beyond=True
    ),
    _use("texts that are cut inside special tokens", "encode_iterable", _APART[2:], beyond=True),
)


def _measure_ids(reply: Reply) -> list[str]:
    """Say that ids are missing at the end."""
    for right, ids in zip(reply.right, reply.answer, strict=True):
        if isinstance(ids, list) and ids != right and ids == right[: len(ids)]:
            return [
                f"the last {len(right) - len(ids)} of {len(right)} ids are missing: is what is left at the end encoded?"
            ]
    return []


def _use_code(question: Question, names: Mapping[str, str], right: Any, answer: Any) -> str:
    uses = question.arguments["uses"]
    i = next(i for i, (a, b) in enumerate(zip(right, answer, strict=True)) if a != b)
    use, value = uses[i][:2]
    if use == "lazy":
        return f"next(iter(tokenizer.encode_iterable(itertools.repeat({value[:40]!r}))))  # it never ends"
    known, merges, specials = _tokenizer(question)
    text = {
        "decode": lambda: b"".join(known[i] for i in value),
        "encode_iterable": lambda: "".join(value).encode(),
    }
    whole = text[use]() if use in text else value.encode()
    merges = [(left, right) for left, right in merges if left + right in whole]
    first = [bytes([i]) for i in range(256)]
    vocab = dict(enumerate(dict.fromkeys(first + [a + b for a, b in merges] + [END.encode(), PAD.encode()])))
    if use == "decode":
        value = [next(n for n, token in vocab.items() if token == known[i]) for i in value]
    expected = _answer(use, value, vocab, merges, specials)
    result = (
        f"list(tokenizer.encode_iterable({value!r}))"
        if use == "encode_iterable"
        else f"tokenizer.{use}({value!r})"
    )
    return "\n".join(
        [
            f"merges = {merges}",
            "tokens = [bytes([i]) for i in range(256)] + [a + b for a, b in merges]",
            f"vocab = dict(enumerate(tokens + {[END.encode(), PAD.encode()]}))",
            f"tokenizer = {names['function']}(vocab, merges, {question.arguments['specials']})",
            f"assert {result} == {expected!r}",
        ]
    )


def _names(*functions: str) -> tuple[Mapping[str, str], ...]:
    return tuple({"function": function} for function in functions)


_TRAINS = frozenset(
    {
        "train_bpe",
        "best_pair",
        "count_pairs",
        "count_words",
        "first_tokens",
        "merge",
        "num_merges",
        "pretokenize",
    }
    | {"split_specials"}
)
_ENCODES = frozenset({"encode_text", "apply_merges", "merge", "pretokenize", "split_specials"})
TOKENIZERS = _names("get_tokenizer", "Tokenizer")

TEXTS = (
    Exact(
        "train_bpe",
        _names("run_train_bpe", "train_bpe"),
        _TRAINING,
        _trained,
        _TRAINS,
        _train_code,
        measure=_measure_merges,
    ),
    Exact("encode", TOKENIZERS, _ENCODING, _used, _ENCODES, _use_code, is_method=True),
    Exact("decode", TOKENIZERS, _DECODING, _used, frozenset({"decode_ids"}), _use_code, is_method=True),
    Exact(
        "encode_iterable",
        TOKENIZERS,
        _STREAMING,
        _used,
        _ENCODES | {"encode_iterable", "texts_before_first_id"},
        _use_code,
        is_method=True,
        measure=_measure_ids,
    ),
)
