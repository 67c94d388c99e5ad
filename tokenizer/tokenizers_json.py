"""The file format of the library tokenizers: `tokenizer.json`."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizer.errors import InputError
from tokenizer.files import check_id, from_unicode, parse_vocab, to_unicode
from tokenizer.pretokenize import PATTERNS, Pattern


def export(
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: dict[str, int],
    pattern: Pattern,
    visible_tokens: Collection[str] = (),
) -> dict[str, Any]:
    """Return the content of a `tokenizer.json`.

    Args:
        visible_tokens: Those of the special tokens that a reader sees: `"special": false`.

    Raises:
        InputError: a special token reads like the spelling of another token: "é" is also how byte 0xE9 is spelled.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
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
    # The library looks the parts and the join of a merge up by their spelling, also of one that is a special token.
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
            {"id": i, "content": text, "special": text not in visible_tokens} | flags
            for text, i in sorted(special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted((spelled | special_tokens).items(), key=lambda item: item[1])),
            "merges": [[to_unicode(left), to_unicode(right)] for left, right in merges],
        },
    }


def parse(
    content: Any, path: str | Path
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]], list[str], str, list[str]]:
    """Return vocabulary, merges, special tokens, pattern and visible tokens of the content of a `tokenizer.json`.

    Raises:
        InputError: it is malformed, or asks for something that byte-level BPE with a named pattern does not
            do.
    """
    try:
        model = content["model"]
        reasons = [
            f"its model is {model.get('type')}, not BPE" if model.get("type") != "BPE" else "",
            *(f"its model has {key}" for key in _MODEL_OPTIONS if model.get(key)),
            *(f"it has a {key}" for key in ("normalizer", "truncation", "padding") if content.get(key)),
            _changes_ids(content.get("post_processor")),
        ]
        pattern, reason = _pattern(content.get("pre_tokenizer"))
        vocab = parse_vocab(model["vocab"], path)
        special_tokens, visible_tokens = [], []
        for added in content.get("added_tokens") or []:
            check_id(added["id"], f"{path}: added token {added['content']!a:.40}")
            vocab[added["id"]] = added["content"].encode()
            special_tokens.append(added["content"])
            if not added.get("special", True):
                visible_tokens.append(added["content"])
            reasons += [
                f"added token {added['content']!r} has {key}"
                for key in ("single_word", "lstrip", "rstrip")
                if added.get(key)
            ]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        merges = [(from_unicode(left), from_unicode(right)) for left, right in pairs]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a tokenizer.json of the library tokenizers: {error!r}") from None
    reasons = [reason for reason in [*reasons, reason] if reason]
    if reasons:
        raise InputError(f"{path} cannot be imported: {reasons[0]}; only plain byte-level BPE can")
    return vocab, merges, special_tokens, pattern, visible_tokens


_MODEL_OPTIONS = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


def _changes_ids(post_processor: Any) -> str:
    """Return the reason if a post-processor may add tokens; ByteLevel only trims offsets."""
    match post_processor:
        # The last is a template without special tokens, as transformers saves it.
        case None | {"type": "ByteLevel"} | {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
            return ""
    return f"it has a post_processor {post_processor['type']}, which may add tokens"


def _pattern(pre_tokenizer: Any) -> tuple[str, str]:
    """Return the name of the pattern, and the reason if there is none."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": True} | {
            "type": "Sequence",
            "pretokenizers": [_, {"type": "ByteLevel", "add_prefix_space": True}],
        }:
            return "", "it adds a space in front of the text"
        case {"type": "ByteLevel", "use_regex": False}:
            return "", "it does not cut text into words"
        case {"type": "ByteLevel"}:
            return "gpt2", ""
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "use_regex": False},
            ],
        }:
            names = [name for name, pattern in PATTERNS.items() if pattern == regex]
            return (
                (names[0], "") if names else ("", f"its pattern is {regex!r}, none of {', '.join(PATTERNS)}")
            )
    kind = pre_tokenizer.get("type") if isinstance(pre_tokenizer, dict) else None
    return "", f"its pre_tokenizer is {kind}, not ByteLevel"
