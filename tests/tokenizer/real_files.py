"""The structures of well-known byte-level tokenizer.json files, around a small vocabulary."""

from collections.abc import Callable
from typing import Any

from tokenizer.files.gpt2 import to_unicode

Content = dict[str, Any]

BYTES: Content = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2: Content = BYTES | {"use_regex": True}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NEVER_IN_UTF8 = (*range(0xF5, 0x100), 0xC0, 0xC1)


def split(pattern: str, behavior: str = "Isolated", invert: bool = False, kind: str = "Regex") -> Content:
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def steps(*parts: Content) -> Content:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def template(begin: str) -> Content:
    """Return a post-processor that puts a token in front of a text."""
    first = {"SpecialToken": {"id": begin, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, first, other],
        "special_tokens": {begin: {"id": begin, "ids": [0], "tokens": [begin]}},
    }


def _file(
    plain: Content,
    pre_tokenizer: Content,
    *tokens: str | Content,
    normalizer: Content | None = None,
    **other: Any,
) -> Content:
    """Return a file with some added tokens: a text, or what differs from a special token that nothing changes."""
    model = plain["model"] | {"vocab": dict(plain["model"]["vocab"])} | other.pop("model", {})
    added: list[Content] = []
    for token in tokens:
        settings = {"content": token} if isinstance(token, str) else token
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added.append({"id": len(model["vocab"]) + len(added), **flags, **settings})
    if "post_processor" in other:
        for name, token in other["post_processor"].get("special_tokens", {}).items():
            token["ids"] = [next(one["id"] for one in added if one["content"] == name)]
    decoder = BYTES | {"add_prefix_space": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    } | other


def _visible(*texts: str, **flags: bool) -> list[Content]:
    return [{"content": text, "special": False} | flags for text in texts]


def _gpt2(plain: Content) -> Content:
    model = {key: plain["model"][key] for key in ("vocab", "merges")}
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    content = _file(
        plain, BYTES, {"content": "<|endoftext|>", "normalized": True}, model={"dropout": None} | model
    )
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    content["model"].pop("type")
    return content


def _llama3(plain: Content) -> Content:
    offsets = BYTES | {"add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    begin = template("<|begin_of_text|>")
    content = _file(
        plain,
        steps(split(LLAMA3), BYTES),
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        post_processor={"type": "Sequence", "processors": [offsets, begin]},
        model=_whole_words(plain),
    )
    begin["special_tokens"]["<|begin_of_text|>"]["ids"] = [content["added_tokens"][0]["id"]]
    return content


def _whole_words(plain: Content) -> Content:
    """Return a model with tokens that no merge makes: tiktoken's vocabularies have some."""
    vocab = dict(plain["model"]["vocab"])
    for word in ("Ġtheme", "Ġthesis", to_unicode(" días".encode()), "Ġ12", to_unicode("走走".encode())):
        vocab.setdefault(word, len(vocab))
    return {"ignore_merges": True, "vocab": vocab}


def _qwen(pattern: str, *visible: str) -> Callable[[Content], Content]:
    return lambda plain: _file(
        plain,
        steps(split(pattern), BYTES | {"trim_offsets": False}),
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>"),
        *_visible(*visible),
        normalizer={"type": "NFC"},
        post_processor=BYTES | {"trim_offsets": False},
        model={"continuing_subword_prefix": "", "end_of_word_suffix": ""},
    )


def _deepseek(*splits: Content, lacks: tuple[int, ...] = ()) -> Callable[[Content], Content]:
    def make(plain: Content) -> Content:
        spelled = [to_unicode(bytes([byte])) for byte in lacks]
        kept = [text for text in plain["model"]["vocab"] if text not in spelled]
        return _file(
            plain,
            steps(*splits, BYTES),
            *_visible(*spelled, normalized=True),
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            *_visible("<｜User｜>", "<|EOT|>", normalized=True),
            normalizer={"type": "Sequence", "normalizers": []},
            post_processor=template("<｜begin▁of▁sentence｜>"),
            model={"vocab": {text: i for i, text in enumerate(kept)}},
        )

    return make


def _phi4(plain: Content) -> Content:
    names = ("<|dummy_0|>", "<|endoftext|>", "<|fim_prefix|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")
    tokens = [{"content": text, "lstrip": True, "rstrip": True} for text in names]
    return _file(plain, steps(split(LLAMA3, "Removed", invert=True), BYTES), *tokens)


FILES: dict[str, Callable[[Content], Content]] = {
    "GPT-2": _gpt2,
    "Llama 3": _llama3,
    "Qwen 2": _qwen(QWEN),
    "Qwen 3": _qwen(QWEN, "<tool_call>", "</tool_call>", "<think>", "</think>"),
    "Qwen 3.5": _qwen(QWEN35, "<tool_call>", "</tool_call>"),
    "Qwen with tokens that were added later": lambda plain: _file(
        plain,
        steps(split(QWEN), BYTES),
        "<|endoftext|>",
        *_visible("<tool>", "  \n", normalized=True),
        normalizer={"type": "NFC"},
    ),
    "SmolLM": lambda plain: _file(
        plain,
        steps({"type": "Digits", "individual_digits": True}, GPT2),
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"),
    ),
    "StarCoder": lambda plain: _file(
        plain,
        steps({"type": "Digits", "individual_digits": True}, GPT2),
        *("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<jupyter_start>"),
        post_processor=GPT2 | {"add_prefix_space": True},
    ),
    "OLMo 2": lambda plain: _file(
        plain,
        steps(split(LLAMA3, "Removed", invert=True), BYTES),
        *("|||PHONE_NUMBER|||", "<|endoftext|>", "<|fim_prefix|>", "<|pad|>"),
        *_visible("|||IP_ADDRESS|||", "<|extra_id_0|>"),
    ),
    "GPT-NeoX, OLMo": lambda plain: _file(
        plain,
        GPT2,
        *("<|endoftext|>", "<|padding|>"),
        *_visible(*(" " * n for n in range(9, 1, -1)), normalized=True),
        normalizer={"type": "NFC"},
    ),
    "Phi-2": lambda plain: _file(
        plain,
        GPT2,
        *_visible(*(" " * n for n in range(9, 1, -1)), "\t\t\t", "\t\t", normalized=True),
        {"content": "<|endoftext|>", "normalized": True},
    ),
    "Phi-4": _phi4,
    "Phi-4-mini": lambda plain: _file(
        plain,
        steps(split(TEKKEN), BYTES),
        *("<|endoftext|>", "<|endofprompt|>"),
        *({"content": text, "rstrip": True} for text in ("<|assistant|>", "<|end|>", "<|user|>")),
        *_visible("<|tool|>", normalized=False),
    ),
    "Mistral Nemo": lambda plain: _file(
        plain,
        steps(split(TEKKEN), BYTES),
        *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<SPECIAL_20>"),
        post_processor=template("<s>"),
        model=_whole_words(plain),
    ),
    "DeepSeek LLM": _deepseek(
        split("[\r\n]"),
        split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿͰ-ͳͶͷΆΈ-ΊΑ-ΡΣ-ϵА-ҁҊ-ԯ]+"),
        split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        split(r"\s+$"),
        split("[一-龥ࠀ-一가-퟿]+"),
        {"type": "Digits", "individual_digits": True},
        lacks=NEVER_IN_UTF8,
    ),
    "DeepSeek V3": _deepseek(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK_V3)),
    "RoBERTa": lambda plain: _file(
        plain, GPT2, *("<s>", "<pad>", "</s>", "<unk>"), {"content": "<mask>", "lstrip": True}
    ),
}
