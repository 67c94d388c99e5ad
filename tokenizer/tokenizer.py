"""The tokenizer: text to token ids and back."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokenizer.errors import InputError
from tokenizer.files import gpt2, tokenizers_json
from tokenizer.files.publish import write_text
from tokenizer.files.reading import read_json
from tokenizer.merges.apply import LONG, PieceMerger
from tokenizer.pretokenize import Pretokenizer, encode_utf8
from tokenizer.spans import edges_of
from tokenizer.streams import StreamEncoder

SHORT = 4096  # characters; up to so many, a loop over pre-tokens is faster than blocks in NumPy
MAX_CACHED_PIECES = 1 << 16


class Tokenizer:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019).

    Text is cut into pre-tokens; within each, the pair of neighbours that comes first in `merges` is merged,
    again and again, until no pair is left that `merges` knows.

    >>> vocab = {i: bytes([i]) for i in range(256)} | {256: b"he", 257: b"hell", 258: b"ll"}
    >>> tokenizer = Tokenizer(vocab, [(b"h", b"e"), (b"l", b"l"), (b"he", b"ll")], ["<|eot|>"])
    >>> tokenizer.encode("hello<|eot|>")
    [257, 111, 259]
    >>> tokenizer.decode([257, 111, 259])
    'hello<|eot|>'

    Args:
        vocab: id -> bytes; must hold all 256 single bytes. Of ids with the same bytes the last one is used.
        merges: pairs of byte strings, the one to merge first in front.
        special_tokens: strings that always become one token. Those not in `vocab` get the next free ids.
        pattern: how text is cut into pre-tokens: "gpt2", "cl100k", "o200k", or a regular expression. Of several, each
            cuts the pieces that the one before has left.
        visible_tokens: those of the special tokens that a reader sees, such as "<tool_call>". No id depends on them;
            they are the added tokens of a `tokenizer.json` that are not `special`.
        whole_pieces: a pre-token that is in `vocab` becomes that one token, also if merges do not make it: as tiktoken
            does, and `ignore_merges` says in a `tokenizer.json`.

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
    ) -> None:
        for i in vocab:
            gpt2.check_id(i, f"token {vocab[i]!r:.40}")
        self.merges = list(merges)
        self.pretokenizer = Pretokenizer(pattern, special_tokens or ())
        # Where two ids have the same bytes (a special token of one byte, after training), the last one is
        # used. The others have no text: a file maps each token to one id.
        self._ids = ids = {token: i for i, token in sorted(vocab.items())}
        self.vocab = {i: token for token, i in ids.items()}
        missing = [byte for byte in range(256) if bytes([byte]) not in ids]
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
        self._byte_ids = [ids[bytes([byte])] for byte in range(256)]
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            if left not in ids or right not in ids or left + right not in ids:
                raise InputError(
                    f"merge {rank} joins {left!r} and {right!r}, but vocab lacks one of them or their join"
                )
            self._ranks.setdefault((ids[left], ids[right]), (rank, ids[left + right]))
        self._whole = self._unmerged() if whole_pieces else {}
        self._cache: dict[str, list[int]] = {}

    def _unmerged(self) -> dict[bytes, int]:
        """Return the tokens that are no special tokens, and that merging their bytes does not give."""
        tokens = [(token, i) for token, i in self._ids.items() if i not in self.special_tokens.values()]
        data = np.frombuffer(b"".join([token for token, _ in tokens]), np.uint8)
        edges = edges_of([len(token) for token, _ in tokens])
        ids, places = PieceMerger(self._byte_ids, self._ranks, {}).merge(data, edges)
        first = np.searchsorted(places, edges)
        return {
            token: i
            for (token, i), start, end in zip(tokens, first[:-1].tolist(), first[1:].tolist(), strict=True)
            if ids[start:end].tolist() != [i]
        }

    @property
    def vocab_size(self) -> int:
        """The number of rows an embedding needs: the largest id plus one."""
        return max(self.vocab) + 1

    @cached_property
    def ids_with_text(self) -> np.ndarray:
        """The ids that `decode` takes, ascending; a vocabulary may have holes."""
        return np.array(sorted(self.vocab))

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint16 and uint32 that holds every id."""
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    @cached_property
    def sha256(self) -> str:
        """A hash of everything the ids depend on: vocabulary, merges, special tokens, pattern."""
        content = {
            "vocab": sorted((token.hex(), i) for token, i in self._ids.items()),
            "merges": [[left.hex(), right.hex()] for left, right in self.merges],
            "special_tokens": sorted(self.special_tokens),
            "pattern": self.pretokenizer.pattern,
            **({"whole_pieces": True} if self._whole else {}),
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises:
            InputError: `text` holds a lone surrogate, which UTF-8 cannot express.
        """
        if len(text) > SHORT:
            return self.encode_to_numpy(text).tolist()
        ids: list[int] = []
        try:
            for is_special, pieces in self.pretokenizer.sections(text):
                if is_special:
                    ids.append(self.special_tokens[pieces[0]])
                else:
                    for piece in pieces:
                        ids += self._cache.get(piece) or self._encode_piece(piece)
        except UnicodeEncodeError:
            encode_utf8(text)  # says where
            raise
        return ids

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """Return the ids of `text` as an array of uint16, or of uint32 if the vocabulary needs it.

        Raises:
            InputError: as in `encode`.
        """
        if len(text) <= SHORT:
            return np.array(self.encode(text), self.dtype)
        read = BytesIO(encode_utf8(text)).read
        return np.concatenate([ids for ids, _ in self.stream_encoder.encode(read, check=False)])

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """Yield the ids of the joined `texts`, reading them only as needed.

        The result is `encode("".join(texts))`, however the text is cut into `texts`. An id is certain only if
        what follows it is known, so the ids of a text come when some of the next was read.

        Raises:
            InputError: as in `encode`.
        """
        for ids, _ in self.stream_encoder.encode(_reader(texts), block_size=1 << 15, batch=1, check=False):
            yield from ids.tolist()

    @cached_property
    def stream_encoder(self) -> StreamEncoder:
        """What encodes long texts."""
        special_ids = [self.special_tokens[token] for token in self.pretokenizer.special_tokens]
        return StreamEncoder(
            self.pretokenizer, special_ids, self._byte_ids, self._ranks, self.dtype, self._whole
        )

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
        ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        try:
            return b"".join([self.vocab[i] for i in ids])
        except KeyError as error:
            raise InputError(
                f"token id {error} is not in the vocabulary of {len(self.vocab)} tokens; "
                f"decode with the tokenizer that encoded the text"
            ) from None

    def _encode_piece(self, piece: str) -> list[int]:
        """Return the ids of a pre-token, and remember them."""
        data = piece.encode()
        if len(data) > LONG:
            found, _ = self.stream_encoder.merger.merge(
                np.frombuffer(data, np.uint8), np.array([0, len(data)])
            )
            return found.tolist()
        ids = [self._whole[data]] if data in self._whole else [self._byte_ids[byte] for byte in data]
        while True:
            ranked = [(self._ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in self._ranks]
            if not ranked:
                break
            (_, merged), i = min(ranked)
            ids[i : i + 2] = [merged]
        if len(self._cache) >= MAX_CACHED_PIECES:
            self._cache.clear()
        self._cache[piece] = ids
        return ids

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
            InputError: a file is missing or malformed, or they do not belong together.
        """
        vocab, merges = gpt2.read_vocab(vocab_path), gpt2.read_merges(merges_path)
        with _naming(vocab_path):
            tokenizer = cls(vocab, merges, special_tokens, pattern)
            tokenizer._refuse_damage()
            return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write `vocab.json` and `merges.txt` in GPT-2's format; `pretokenizer.json` has what they lack."""
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
        write_text(folder / "pretokenizer.json", json.dumps(pretokenizer, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing or malformed, or was changed since.
        """
        folder = Path(folder)
        facts = gpt2.read_pretokenizer(folder / "pretokenizer.json")
        sha256 = facts.pop("sha256")
        vocab, merges = gpt2.read_vocab(folder / "vocab.json"), gpt2.read_merges(folder / "merges.txt")
        with _naming(folder):
            tokenizer = cls(vocab, merges, **facts)
            if tokenizer.sha256 != sha256:
                tokenizer._refuse_damage()
                if sha256 is not None:
                    raise InputError(
                        "a file was changed since it was saved; put it back, or delete sha256 from pretokenizer.json "
                        "if that was meant"
                    )
        return tokenizer

    def _refuse_damage(self) -> None:
        """Refuse a vocabulary and merges that training cannot have made together.

        Raises:
            InputError: no merge makes a token that looks learned, or a few merges are not in the order of their tokens.
        """
        joined = [left + right for left, right in self.merges]
        made = {*joined, *(special.encode() for special in self.special_tokens)}
        for i, token in self.vocab.items():
            # What the pattern cuts is no learned token, but one that was added: a special token of another program.
            if (
                len(token) > 1
                and token not in made
                and len(self.pretokenizer.split(token.decode(errors="ignore"))) < 2
            ):
                raise InputError(
                    f"vocab.json has token {i} ({token!r:.40}), which no line of merges.txt makes; take both files "
                    "from where they were made again, or name it as a special token if it is one"
                )
        ids = [
            self._ids[token]
            for token in dict.fromkeys(joined)
            if token.decode(errors="ignore") not in self.special_tokens
        ]
        falls = [rank for rank, (one, next_one) in enumerate(pairwise(ids)) if one > next_one]
        # Some programs number tokens in an order of their own. Then about half of all merges are out of order.
        if 0 < len(falls) <= max(2, len(ids) // 100):
            token = self.vocab[ids[falls[0]]]
            raise InputError(
                f"merges.txt makes {token!r:.40} before a token with a smaller id in vocab.json, unlike nearly all "
                "others: lines were exchanged; take both files from where they were made again"
            )

    def save_tokenizers_json(self, path: str | Path) -> None:
        """Write the `tokenizer.json` of the library tokenizers, which encodes as this one does.

        A pattern of your own is written as it is; the library's dialect of regular expressions may differ.
        """
        content = tokenizers_json.export(
            self.vocab,
            self.merges,
            self.special_tokens,
            self.pretokenizer.pattern,
            self.visible_tokens,
            bool(self._whole),
        )
        write_text(Path(path), json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def from_tokenizers_json(cls, path: str | Path) -> Self:
        """Read a `tokenizer.json` of the library tokenizers: byte-level BPE, cut by any regular expressions.

        What its post-processor puts around a text, such as a token for its beginning, is no part of the text's ids.

        Raises:
            InputError: the file is missing or malformed, or asks for something this tokenizer does not do.
        """
        facts = tokenizers_json.parse(read_json(path), path)
        with _naming(path):
            return cls(**facts)

    @classmethod
    def from_folder(cls, folder: str | Path, special_tokens: Iterable[str] | None = None) -> Self:
        """Read a tokenizer that another program has saved: from `tokenizer.json`, or GPT-2's files if there is none.

        A folder may hold both. Then vocab.json and merges.txt are the lesser part: they do not say how text is cut.

        Args:
            folder: the folder.
            special_tokens: of GPT-2's files, which do not name them.

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
    """Put the name of what was read in front of an error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _reader(texts: Iterable[str]) -> Callable[[int], bytes]:
    """Return a function that reads the next bytes of the joined texts, about so many, and none at their end.

    It reads the first text only, then twice as much each time, so that ids come early and long inputs are
    fast.
    """
    iterator = iter(texts)
    text, start, wanted = "", 0, 1

    def read(size: int) -> bytes:
        nonlocal text, start, wanted
        parts, found = [], 0
        while found < min(wanted, size):
            if start == len(text):
                try:
                    text, start = next(iterator), 0
                except StopIteration:
                    break
            part = text[start : start + size]
            parts.append(part)
            start += len(part)
            found += len(part)
        wanted *= 2
        return encode_utf8("".join(parts))

    return read
