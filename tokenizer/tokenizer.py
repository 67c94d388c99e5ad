"""The tokenizer: text to token ids and back."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokenizer.batches import BatchEncoder
from tokenizer.cuts import BLOCK
from tokenizer.errors import InputError
from tokenizer.files import gpt2, tokenizers_json
from tokenizer.files.publish import write_text
from tokenizer.files.reading import read_json
from tokenizer.merges.apply import PieceMerger, unmerged
from tokenizer.normalizer import Normalization
from tokenizer.pretokenize import Pretokenizer, encode_utf8
from tokenizer.short_texts import SHORT, ShortEncoder
from tokenizer.streams import StreamEncoder, reader_of
from tokenizer.token_table import TokenTable

FEW_IDS = 500  # for up to this many ids, joining tokens one by one is faster than gathering them in NumPy
NEVER_IN_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))  # DeepSeek's vocabularies lack these bytes


class Tokenizer:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019).

    `encode` cuts the text into pre-tokens. Within each pre-token it merges the pair of neighbours that stands first
    in `merges`, and repeats this until `merges` has none of the pairs.

    >>> vocab = {i: bytes([i]) for i in range(256)} | {256: b"he", 257: b"hell", 258: b"ll"}
    >>> tokenizer = Tokenizer(vocab, [(b"h", b"e"), (b"l", b"l"), (b"he", b"ll")], ["<|eot|>"])
    >>> tokenizer.encode("hello<|eot|>")
    [257, 111, 259]
    >>> tokenizer.decode([257, 111, 259])
    'hello<|eot|>'

    Args:
        vocab: id -> bytes; must hold all single bytes that UTF-8 uses, 243 of 256. If several ids have the same bytes,
            the last one is used.
        merges: pairs of byte strings, in the order in which they merge.
        special_tokens: strings that always become one token. Those not in `vocab` get the next free ids.
        pattern: how to cut text into pre-tokens: "gpt2", "cl100k", "o200k", or a regular expression. Each of several
            patterns cuts the pieces that the pattern before it has left.
        visible_tokens: the special tokens that a reader sees, such as "<tool_call>". No id depends on them. In a
            `tokenizer.json` they are the added tokens that are not `special`.
        whole_pieces: make a pre-token that is in `vocab` one token, even if merges do not make it. tiktoken does so,
            and a `tokenizer.json` with `ignore_merges`.
        normalization: how a text changes before it is cut; not at all if None. `decode(encode(text))` is the changed
            text.
        bos_token: the special token that begins each text, as in Llama 3. `encode` leaves it out, because a text may
            be a part of another one; who gives a model a whole text puts it in front.

    Raises:
        InputError: `vocab` and `merges` do not fit together, or a special token or the pattern is unusable.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Iterable[str] | None = None,
        pattern: str | Sequence[str] = "gpt2",
        visible_tokens: Iterable[str] = (),
        whole_pieces: bool = False,
        normalization: Normalization | None = None,
        bos_token: str | None = None,
    ) -> None:
        for i in vocab:
            gpt2.check_id(i, f"token {vocab[i]!r:.40}")
        self.merges = list(merges)
        self.pretokenizer = Pretokenizer(pattern, special_tokens or (), normalization)
        # If two ids have the same bytes (a special token of one byte, after training), the last one is used.
        # The others have no text: a file maps each token to one id.
        self._ids = ids = {token: i for i, token in sorted(vocab.items())}
        self.vocab = {i: token for token, i in ids.items()}
        missing = [byte for byte in range(256) if bytes([byte]) not in ids and byte not in NEVER_IN_UTF8]
        if missing:
            raise InputError(
                f"vocab lacks {len(missing)} single bytes, the first is {missing[0]}; add all 256"
            )
        self.special_tokens: dict[str, int] = {}
        for special in self.pretokenizer.special_tokens:
            token = special.encode()
            if token not in ids:
                ids[token] = max(self.vocab) + 1
                self.vocab[ids[token]] = token
            self.special_tokens[special] = ids[token]
        self.visible_tokens = [token for token in visible_tokens if token in self.special_tokens]
        if bos_token is not None and bos_token not in self.special_tokens:
            raise InputError(f"bos_token is {bos_token!a:.40}, which is not a special token; add it to them")
        self.bos_token = bos_token
        self._byte_ids = [ids.get(bytes([byte]), 0) for byte in range(256)]
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            if left not in ids or right not in ids or left + right not in ids:
                raise InputError(
                    f"merge {rank} joins {left!r} and {right!r}, but vocab lacks one of them or their join"
                )
            self._ranks.setdefault((ids[left], ids[right]), (rank, ids[left + right]))
        self._whole: dict[bytes, int] = {}
        if whole_pieces:
            ordinary = {token: i for token, i in ids.items() if i not in self.special_tokens.values()}
            self._whole = unmerged(ordinary, PieceMerger(self._byte_ids, self._ranks, {}))

    @property
    def normalization(self) -> Normalization:
        """How a text changes before it is cut."""
        return self.pretokenizer.normalization

    @property
    def vocab_size(self) -> int:
        """The number of rows an embedding needs: the largest id plus one."""
        return max(self.vocab) + 1

    @cached_property
    def ids_with_text(self) -> np.ndarray:
        """The ids that `decode` takes, ascending. A vocabulary may have gaps."""
        return np.array(sorted(self.vocab))

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint16 and uint32 that holds every id."""
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    @cached_property
    def sha256(self) -> str:
        """A hash of everything the ids depend on: vocabulary, merges, special tokens, pattern, normalization."""
        content = {
            "vocab": sorted((token.hex(), i) for token, i in self._ids.items()),
            "merges": [[left.hex(), right.hex()] for left, right in self.merges],
            "special_tokens": sorted(self.special_tokens),
            "pattern": self.pretokenizer.pattern,
            **({"whole_pieces": True} if self._whole else {}),
            **({"normalization": self.normalization.to_json()} if self.normalization else {}),
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises:
            InputError: `text` holds a lone surrogate, which UTF-8 cannot express.
        """
        if len(text) > SHORT:
            return self.encode_to_numpy(text).tolist()
        if self.pretokenizer.normalizer:
            text = self.pretokenizer.normalizer.apply(text)
        return self._short_encoder.encode(text)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text.

        Raises:
            InputError: a text holds a lone surrogate; the error says which text, counted from 0.
        """
        return self._batch_encoder.encode(list(texts))

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """Return the ids of `text` as an array of uint16, or of uint32 if the vocabulary needs it.

        Raises:
            InputError: as in `encode`.
        """
        if len(text) <= SHORT:
            return np.array(self.encode(text), self.dtype)
        try:
            stream = self.stream_encoder.encode(reader_of([text], BLOCK), check=False)
            return np.concatenate([ids for ids, _ in stream])
        except InputError:
            encode_utf8(text)  # says where in the whole text
            raise

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """Yield the ids of the joined `texts`, reading them only as needed.

        The result is `encode("".join(texts))`, however the text is divided into `texts`. An id is certain only after
        the text behind it is known, so the ids of a text come after a part of the next text was read.

        Raises:
            InputError: as in `encode`.
        """
        for ids, _ in self.stream_encoder.encode(reader_of(texts), block_size=1 << 15, batch=1, check=False):
            yield from ids.tolist()

    @cached_property
    def stream_encoder(self) -> StreamEncoder:
        """The encoder of long texts."""
        return self._streams(self.pretokenizer, [*self.special_tokens.values()], self.dtype)

    @cached_property
    def _short_encoder(self) -> ShortEncoder:
        """The encoder of texts up to `SHORT`, which have changed before."""
        return ShortEncoder(self.pretokenizer, self._ids, self.stream_encoder)

    @cached_property
    def _batch_encoder(self) -> BatchEncoder:
        """The encoder of several texts."""
        special_ids = [*self.special_tokens.values(), self.vocab_size]  # the separator's id is the last

        def streams(pretokenizer: Pretokenizer) -> StreamEncoder:
            return self._streams(pretokenizer, special_ids, np.dtype(np.uint32))

        return BatchEncoder(self.pretokenizer, self.encode, streams, self.vocab_size)

    def _streams(self, pretokenizer: Pretokenizer, special_ids: list[int], dtype: np.dtype) -> StreamEncoder:
        return StreamEncoder(pretokenizer, special_ids, self._byte_ids, self._ranks, dtype, self._whole)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        items: list[int] | np.ndarray = ids if isinstance(ids, list | np.ndarray) else list(ids)
        if isinstance(items, np.ndarray) and (items.ndim != 1 or items.dtype.kind not in "iu"):
            items = items.tolist()
        if len(items) > FEW_IDS and (joined := self._token_table.join(items)) is not None:
            return joined
        if isinstance(items, np.ndarray):
            items = items.tolist()
        try:
            return b"".join(map(self.vocab.__getitem__, items))
        except KeyError as error:
            raise InputError(
                f"token id {error} is not in the vocabulary of {len(self.vocab)} tokens; "
                f"decode with the tokenizer that encoded the text"
            ) from None

    @cached_property
    def _token_table(self) -> TokenTable:
        """The bytes of the tokens, for many ids."""
        return TokenTable(self.vocab)

    @classmethod
    def from_files(
        cls,
        vocab_path: str | Path,
        merges_path: str | Path,
        special_tokens: Iterable[str] | None = None,
        pattern: str | Sequence[str] = "gpt2",
    ) -> Self:
        """Read a tokenizer from files in GPT-2's format (`vocab.json`, `merges.txt`).

        Raises:
            InputError: a file is missing or malformed, or the files do not belong together.
        """
        vocab, merges = gpt2.read_vocab(vocab_path), gpt2.read_merges(merges_path)
        with _naming(vocab_path):
            tokenizer = cls(vocab, merges, special_tokens, pattern)
            gpt2.refuse_mixture(tokenizer.vocab, tokenizer.merges, tokenizer.pretokenizer)
            return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write `vocab.json` and `merges.txt` in GPT-2's format, and `pretokenizer.json` with what they lack."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "vocab.json", gpt2.format_vocab(self.vocab))
        write_text(folder / "merges.txt", gpt2.format_merges(self.merges))
        pretokenizer: dict[str, Any] = {
            "special_tokens": list(self.special_tokens),
            "pattern": self.pretokenizer.pattern,
            "sha256": self.sha256,
        }
        if self.visible_tokens:
            pretokenizer["visible_tokens"] = self.visible_tokens
        if self._whole:
            pretokenizer["whole_pieces"] = True
        if self.normalization:
            pretokenizer["normalization"] = self.normalization.to_json()
        if self.bos_token:
            pretokenizer["bos_token"] = self.bos_token
        write_text(folder / "pretokenizer.json", json.dumps(pretokenizer, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing or malformed, or has changed since `save` wrote it.
        """
        folder = Path(folder)
        facts = gpt2.read_pretokenizer(folder / "pretokenizer.json")
        sha256 = facts.pop("sha256")
        vocab, merges = gpt2.read_vocab(folder / "vocab.json"), gpt2.read_merges(folder / "merges.txt")
        with _naming(folder):
            tokenizer = cls(vocab, merges, **facts)
            if tokenizer.sha256 != sha256:
                gpt2.refuse_mixture(tokenizer.vocab, tokenizer.merges, tokenizer.pretokenizer)
                if sha256 is not None:
                    raise InputError(
                        "a file was changed since it was saved; put it back, or delete sha256 from pretokenizer.json "
                        "if that was meant"
                    )
        return tokenizer

    def save_tokenizers_json(self, path: str | Path) -> None:
        """Write the `tokenizer.json` of the library tokenizers, which encodes as this one does.

        A regular expression of your own is written unchanged; the library's dialect may differ.
        """
        content = tokenizers_json.export(
            self.vocab,
            self.merges,
            self.special_tokens,
            self.pretokenizer.pattern,
            self.visible_tokens,
            bool(self._whole),
            self.normalization,
            self.bos_token,
        )
        write_text(Path(path), json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def from_tokenizers_json(cls, path: str | Path) -> Self:
        """Read a `tokenizer.json` of the library tokenizers: byte-level BPE, cut by any regular expressions.

        `encode` leaves out what its post-processor adds to a text. A token in front of it becomes `bos_token`.

        Raises:
            NotByteLevel: the file is of another kind than byte-level BPE, such as SentencePiece.
            InputError: the file is missing or malformed, or asks for something this tokenizer does not do.
        """
        facts = tokenizers_json.parse(read_json(path), path)
        with _naming(path):
            return cls(**facts)

    @classmethod
    def from_folder(cls, folder: str | Path, special_tokens: Iterable[str] | None = None) -> Self:
        """Read a tokenizer that another program has saved: from `tokenizer.json`, or from GPT-2's files without one.

        If a folder holds both, `tokenizer.json` counts: vocab.json and merges.txt do not say how to cut text.

        Args:
            folder: the folder.
            special_tokens: the special tokens of GPT-2's files, which do not name them.

        Raises:
            InputError: a file is missing or malformed, or asks for something this tokenizer does not do.
        """
        folder = Path(folder)
        if (folder / "pretokenizer.json").exists():
            return cls.load(folder)
        if (folder / "tokenizer.json").exists():
            return cls.from_tokenizers_json(folder / "tokenizer.json")
        settings = folder / "tokenizer_config.json"
        gpt2.refuse_other_class(read_json(settings) if settings.exists() else {}, settings)
        return cls.from_files(folder / "vocab.json", folder / "merges.txt", special_tokens)


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the path in front of an error's message."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
