"""The tokenizer: text to token ids and back."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from tokenizer import files, tokenizers_json
from tokenizer.encode_stream import StreamEncoder
from tokenizer.errors import InputError
from tokenizer.merge_pieces import LONG
from tokenizer.pretokenize import Pretokenizer, encode_utf8

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
    ) -> None:
        for i in vocab:
            files.check_id(i, f"token {vocab[i]!r:.40}")
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
        self._cache: dict[str, list[int]] = {}

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
        return StreamEncoder(self.pretokenizer, special_ids, self._byte_ids, self._ranks, self.dtype)

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
        ids = [self._byte_ids[byte] for byte in data]
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
            InputError: a file is missing or malformed.
        """
        vocab, merges = files.read_vocab(vocab_path), files.read_merges(merges_path)
        with _naming(vocab_path):
            return cls(vocab, merges, special_tokens, pattern)

    def save(self, folder: str | Path) -> None:
        """Write `vocab.json` and `merges.txt` in GPT-2's format; `pretokenizer.json` has what they lack."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / "vocab.json", files.format_vocab(self.vocab))
        files.write_text(folder / "merges.txt", files.format_merges(self.merges))
        pretokenizer = {"special_tokens": list(self.special_tokens), "pattern": self.pretokenizer.pattern}
        if self.visible_tokens:
            pretokenizer["visible_tokens"] = self.visible_tokens
        files.write_text(folder / "pretokenizer.json", json.dumps(pretokenizer, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing or malformed.
        """
        folder = Path(folder)
        facts = files.read_pretokenizer(folder / "pretokenizer.json")
        vocab, merges = files.read_vocab(folder / "vocab.json"), files.read_merges(folder / "merges.txt")
        with _naming(folder):
            return cls(vocab, merges, *facts)

    def save_tokenizers_json(self, path: str | Path) -> None:
        """Write the `tokenizer.json` of the library tokenizers, which encodes as this one does.

        A pattern of your own is written as it is; the library's dialect of regular expressions may differ.
        """
        content = tokenizers_json.export(
            self.vocab, self.merges, self.special_tokens, self.pretokenizer.pattern, self.visible_tokens
        )
        files.write_text(Path(path), json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def from_tokenizers_json(cls, path: str | Path) -> Self:
        """Read a `tokenizer.json` of the library tokenizers: byte-level BPE with one of the named patterns.

        Raises:
            InputError: the file is missing or malformed, or asks for something this tokenizer does not do.
        """
        facts = tokenizers_json.parse(files.read_json(path), path)
        with _naming(path):
            return cls(*facts)


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
