"""The file format of the library tokenizers: `tokenizer.json`."""

from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import regex

from tokenizer.errors import InputError, NotByteLevel
from tokenizer.files.gpt2 import check_id, from_unicode, parse_vocab, to_unicode
from tokenizer.files.oniguruma import matches_everything, translate
from tokenizer.normalizer import Normalization, overlap
from tokenizer.pretokenize import PATTERNS, Pattern


def export(
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: dict[str, int],
    pattern: Pattern,
    visible_tokens: Collection[str] = (),
    whole_pieces: bool = False,
    normalization: Normalization | None = None,
    bos_token: str | None = None,
) -> dict[str, Any]:
    """Return the content of a `tokenizer.json`.

    Args:
        visible_tokens: the special tokens that a reader sees: `"special": false`.

    Raises:
        InputError: a special token reads like the spelling of another token: "é" is also how byte 0xE9 is spelled.
    """
    normalization = normalization or Normalization()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pre_tokenizer: dict[str, Any] = byte_level
    if pattern != "gpt2":
        splits = [
            {
                "type": "Split",
                "pattern": {"Regex": PATTERNS.get(part, part)},
                "behavior": "Isolated",
                "invert": False,
            }
            for part in ([pattern] if isinstance(pattern, str) else pattern)
        ]
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [*splits, byte_level | {"use_regex": False}]}
    # The library looks up the parts and the join of a merge by their spelling, even if one is a special token.
    merged = {token for left, right in merges for token in (left, right, left + right)}
    spelled = {
        to_unicode(token): i
        for i, token in vocab.items()
        if i not in special_tokens.values() or token in merged
    }
    for text in special_tokens:
        if text in spelled and vocab[spelled[text]] != text.encode():
            raise InputError(
                f"special token {text!r} is spelled like token {spelled[text]} ({vocab[spelled[text]]!r}) in a "
                "tokenizer.json; choose another special token"
            )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": text,
                "single_word": False,
                "lstrip": text in normalization.lstrip,
                "rstrip": text in normalization.rstrip,
                "normalized": text in normalization.late,
                "special": text not in visible_tokens,
            }
            for text, i in sorted(special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": "NFC"} if normalization.nfc else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _begin_with(bos_token, special_tokens) if bos_token else None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole_pieces,
            "vocab": dict(sorted((spelled | special_tokens).items(), key=lambda item: item[1])),
            "merges": [[to_unicode(left), to_unicode(right)] for left, right in merges],
        },
    }


def _begin_with(token: str, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the post-processor that puts a token in front of a text, and of both texts of a pair."""
    begin, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    pair = [
        begin,
        text,
        {"SpecialToken": {"id": token, "type_id": 1}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ]
    return {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": pair,
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]}},
    }


def parse(content: Any, path: str | Path) -> dict[str, Any]:
    """Return the arguments of a `Tokenizer` that gives the ids of a `tokenizer.json`.

    The ids leave out what its post-processor adds to a text. If it puts a token in front, that is the `bos_token`.

    Raises:
        NotByteLevel: it is of another kind than byte-level BPE.
        InputError: it is malformed, or asks for something that gives other ids or loses text; the message names it.
    """
    try:
        return _parse(content, path)
    except InputError as error:
        raise type(error)(f"{path} cannot be imported: {error}; only byte-level BPE can") from None
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a tokenizer.json of the library tokenizers: {error!r:.200}"
        ) from None


def _parse(content: Any, path: str | Path) -> dict[str, Any]:
    model = content["model"]
    _check_kind(model, content.get("pre_tokenizer"))
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise InputError(f"its model has {key}")
    if content.get("truncation"):
        raise InputError("it has a truncation")
    padding = content.get("padding")
    if padding and (padding["strategy"] != "BatchLongest" or padding.get("pad_to_multiple_of")):
        raise InputError("it has a padding")
    nfc = _is_nfc(content.get("normalizer"))
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    if pairs and pairs[0][:1] == ["#version:"]:
        pairs = pairs[1:]
    merges = [(from_unicode(left), from_unicode(right)) for left, right in pairs]
    merges = [
        *reversed(dict.fromkeys(reversed(merges)))
    ]  # of a pair that occurs twice, the library takes the last
    vocab = parse_vocab(_reachable(model["vocab"]), "its vocab")
    added = [token for token in content.get("added_tokens") or [] if token["content"]]
    _add(vocab, added, model["vocab"])
    return {
        "vocab": vocab,
        "merges": merges,
        "special_tokens": [token["content"] for token in added],
        "pattern": _patterns(content.get("pre_tokenizer")),
        "visible_tokens": [token["content"] for token in added if not token.get("special", True)],
        "whole_pieces": bool(model.get("ignore_merges")),
        "normalization": Normalization(
            nfc,
            tuple(token["content"] for token in added if nfc and token.get("normalized", False)),
            tuple(token["content"] for token in added if token.get("lstrip", False)),
            tuple(token["content"] for token in added if token.get("rstrip", False)),
        ),
        "bos_token": _bos_token(content.get("post_processor"), added),
    }


def _check_kind(model: Any, pre_tokenizer: Any) -> None:
    if model.get("type", "BPE") != "BPE":
        raise NotByteLevel(f"its model is {model['type']}, not BPE")
    kinds = [step["type"] for step in _flat(pre_tokenizer, "pretokenizers")]
    if "ByteLevel" not in kinds:
        raise NotByteLevel(f"its pre_tokenizer is {' and '.join(kinds) or 'missing'}, not ByteLevel")


def _reachable(spelled: Any) -> Any:
    """Leave out entries in plain spelling if the same bytes also stand in GPT-2's spelling."""
    if not isinstance(spelled, dict):
        return spelled
    return {
        text: i
        for text, i in spelled.items()
        if (usual := to_unicode(from_unicode(text))) == text or spelled.get(usual, i) == i
    }


def _add(vocab: dict[int, bytes], added: list[Any], spelled: Mapping[str, int]) -> None:
    """Put the added tokens into the vocabulary, with the ids that the library gives them."""
    largest = -1
    for token in added:
        text, data, i = token["content"], token["content"].encode(), token["id"]
        check_id(i, f"added token {text!a:.40}")
        if token.get("single_word"):
            raise InputError(f"added token {text!a:.40} has single_word")
        # The library looks at the text alone, not at the id in the file.
        taken = spelled.get(text, largest + 1 if largest >= len(spelled) else len(spelled))
        if i != taken:
            raise InputError(
                f"added token {text!a:.40} has the id {i}, but the library would give it {taken}"
            )
        if vocab.get(i, data) != data:
            raise InputError(f"added token {text!a:.40} has the id of {vocab[i]!r:.40}")
        twin = spelled.get(to_unicode(data), i)
        if twin != i:
            vocab.pop(twin, None)  # no text becomes this token: the added one comes before any merge
        vocab[i] = data
        largest = max(largest, i)
    early = [token["content"] for token in added if not token.get("normalized", False)]
    for late in (token["content"] for token in added if token.get("normalized", False)):
        for other in early:
            if other != late and overlap(late, other):
                raise InputError(
                    f"added token {late!a:.40} is normalized, and overlaps with {other!a:.40}, which is not"
                )


def _flat(step: Any, parts: str) -> list[Any]:
    """Return the steps of a sequence, of sequences also, in order."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for part in step[parts] for inner in _flat(part, parts)]
    return [step]


def _is_nfc(normalizer: Any) -> bool:
    """Return whether a normalizer is NFC. Otherwise it is nothing."""
    kinds = [step["type"] for step in _flat(normalizer, "normalizers")]
    for kind in kinds:
        if kind != "NFC":
            raise InputError(f"it has a normalizer {kind}")
    return bool(kinds)


def _bos_token(post_processor: Any, added: list[Any]) -> str | None:
    """Return the token that a post-processor puts in front of a text."""
    begin: list[int] = []
    for step in _flat(post_processor, "processors"):
        match step:
            case {"type": "ByteLevel" | "BertProcessing" | "RobertaProcessing"}:
                pass
            case {"type": "TemplateProcessing", "single": list(single)} if [
                part for part in single if "Sequence" in part
            ] == [{"Sequence": {"id": "A", "type_id": 0}}]:
                for part in reversed([*takewhile(lambda part: "Sequence" not in part, single)]):
                    begin = [*step["special_tokens"][part["SpecialToken"]["id"]]["ids"], *begin]
            case _:
                raise InputError(f"it has a post_processor {step['type']}, which may change the text's ids")
    texts = {token["id"]: token["content"] for token in added}
    if len(begin) > 1 or not texts.keys() >= {*begin}:
        raise InputError(f"its post_processor puts the ids {begin} in front of a text, not one added token")
    return texts[begin[0]] if begin else None


def _patterns(pre_tokenizer: Any) -> list[str]:
    """Return the patterns that cut a text as a pre-tokenizer does."""
    steps = _flat(pre_tokenizer, "pretokenizers")
    if steps[-1]["type"] != "ByteLevel":
        raise InputError(f"its pre_tokenizer ends with {steps[-1]['type']}, not with ByteLevel")
    patterns = []
    for number, step in enumerate(steps):
        match step:
            case {"type": "ByteLevel", "add_prefix_space": True}:
                raise InputError("it adds a space in front of the text")
            case {"type": "ByteLevel"} if number < len(steps) - 1:
                raise InputError("its pre_tokenizer has ByteLevel before the end")
            case {"type": "ByteLevel"}:
                patterns += ["gpt2"] if step.get("use_regex", True) else []
            case {"type": "Digits"}:
                patterns.append(r"\p{N}" if step["individual_digits"] else r"\p{N}+")
            case {"type": "Split"}:
                patterns.append(_split(step))
            case _:
                raise InputError(f"its pre_tokenizer has {step['type']}")
    return patterns


def _split(step: Any) -> str:
    """Return the pattern of a Split."""
    match step["pattern"]:
        case {"Regex": str(pattern)}:
            name = _NAMES.get(pattern)
            found = name or translate(pattern)
        case {"String": str(literal)}:
            name, pattern = None, regex.escape(literal)
            found = pattern
        case _:
            raise InputError("its Split has no pattern")
    behavior, invert = step["behavior"], bool(step.get("invert"))
    # If no text stands between matches, these behaviors also make each match one piece.
    if behavior != "Isolated" and not (
        (behavior in ("MergedWithPrevious", "MergedWithNext") or (behavior == "Removed" and invert))
        and (name or matches_everything(found))
    ):
        inverted = ", inverted," if invert else ""
        raise InputError(
            f"its Split {pattern!r:.100} is {behavior}{inverted} and may lose text or cut it otherwise"
        )
    return found


_NAMES = {pattern: name for name, pattern in PATTERNS.items()} | {
    # These are the spellings of GPT-2's own file and others.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
}
