"""The command `lm tokenizer`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, subcommand

from lm.terminal import show
from lm.text.ends import choose_ends
from tokenizer import END_OF_TEXT


@dataclass(frozen=True)
class TokenizerTrain:
    """Train a byte-level BPE tokenizer on text files."""

    input: tuple[str, ...]
    """Text files in UTF-8: paths, globs such as 'text/*.txt', addresses such as s3://... (by fsspec), - for standard
    input. In a .jsonl file each line is a pair: {"prefix": "some text", "target": "what follows"}."""
    out: Path
    """Folder to write: vocab.json and merges.txt in GPT-2's format, and the special tokens."""
    vocab_size: int
    """Number of tokens: the special tokens, the 256 bytes, and the merges."""
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """Texts that are always one token."""
    pattern: str = "gpt2"
    """Pattern that splits text into pre-tokens: gpt2, cl100k, o200k, or a regular expression."""
    engine: Literal["local", "dask"] = "local"
    """Where to count: in processes of this machine, or on a Dask cluster. The result does not depend on it."""
    scheduler: str | None = None
    """Address of the Dask cluster's scheduler. If not given: start a cluster on this machine."""

    def run(self) -> None:
        from lm.files import reserved
        from tokenizer import Tokenizer
        from tokenizer.inspect import printable
        from tokenizer.train_bpe import train

        with reserved(self.out), _cluster(self.engine, self.scheduler) as client:
            result = train(
                self.input,
                self.vocab_size,
                self.special_tokens,
                pattern=self.pattern,
                progress=sys.stderr.isatty(),
                client=client,
            )
            tokenizer = Tokenizer(result.vocab, result.merges, self.special_tokens, self.pattern)
            _save_tokenizer(tokenizer, self.out)
        learned = sorted((left + right for left, right in result.merges), key=len, reverse=True)
        show(
            f"{self.out}: {len(result.vocab):,} tokens\n"
            f"longest tokens   {', '.join(repr(printable(token)) for token in learned[:5])}\n"
            f"compression      {result.bytes_per_token:.3f} bytes per token of {', '.join(self.input)}\n"
            f"seconds          {', '.join(f'{phase} {s:.2f}' for phase, s in result.seconds.items())}\n"
            f"peak memory      {result.peak_memory / 2**20:.0f} MiB"
        )


@dataclass(frozen=True)
class TokenizerEncode:
    """Encode text files, or pairs for an encoder-decoder, into a .npy file of token ids."""

    tokenizer: Path
    """Folder of the tokenizer, from lm tokenizer train."""
    input: tuple[str, ...]
    """Text files in UTF-8: paths, globs such as 'text/*.txt', addresses such as s3://... (by fsspec), - for standard
    input. In a .jsonl file each line is a pair: {"prefix": "some text", "target": "what follows"}."""
    out: Path
    """Token file to write; FILE.npy.json beside it records the tokenizer, the bytes, and known nats."""
    engine: Literal["local", "dask"] = "local"
    """Where to encode: in processes of this machine, or on a Dask cluster. The result does not depend on it."""
    scheduler: str | None = None
    """Address of the Dask cluster's scheduler. If not given: start a cluster on this machine."""

    def run(self) -> None:
        from lm.data.sidecar import relative_path, sidecar_path, token_facts
        from lm.data.token_files import fingerprint
        from lm.files import alone_at, refuse_existing, remove, write_json
        from tokenizer import Tokenizer
        from tokenizer.encode_pairs import offsets_path
        from tokenizer.errors import InputError
        from tokenizer.files.sources import are_pairs

        tokenizer = Tokenizer.load(self.tokenizer)
        facts = {
            "tokenizer": relative_path(self.out.parent, self.tokenizer),
            "tokenizer_sha256": tokenizer.sha256,
        }
        pairs = are_pairs(self.input)
        if pairs and self.engine == "dask":
            raise InputError("--engine dask encodes texts, not pairs (.jsonl); leave out --engine")
        with alone_at(sidecar_path(self.out)):
            if token_facts(self.out) is None:  # facts of a deleted file may be overwritten
                refuse_existing(sidecar_path(self.out))
            found, said = (self._encode_pairs if pairs else self._encode_text)(tokenizer)
            try:
                facts |= found | {"sha256": fingerprint(self.out)}
                write_json(sidecar_path(self.out), facts)
            except BaseException:  # without its facts, the token file would name no tokenizer
                for written in (self.out, offsets_path(self.out)):
                    remove(written)
                raise
        show(said)

    def _encode_pairs(self, tokenizer: Any) -> tuple[dict[str, Any], str]:
        """Encode pairs; return the facts of the token file, and the line to show."""
        from tokenizer.encode_pairs import encode_pairs

        ends = choose_ends(tokenizer).stop
        end = next((text for text, i in tokenizer.special_tokens.items() if i in ends), END_OF_TEXT)
        result = encode_pairs(self.input, tokenizer, self.out, end, progress=sys.stderr.isatty())
        return {"tokens": result.num_tokens, "pairs": result.num_pairs}, (
            f"{self.out}: {result.num_pairs:,} pairs, {result.num_tokens:,} tokens; to train on them: "
            f"--model.prefix-length {result.longest_prefix} --model.context-length {result.longest_target} or more"
        )

    def _encode_text(self, tokenizer: Any) -> tuple[dict[str, Any], str]:
        from lm.data.sidecar import text_nats
        from lm.files import file_sha256
        from tokenizer.encode_corpus import encode_corpus

        with _cluster(self.engine, self.scheduler) as client:
            result = encode_corpus(
                self.input, tokenizer, self.out, progress=sys.stderr.isatty(), client=client
            )
        facts: dict[str, Any] = {"tokens": result.num_tokens, "bytes": result.num_bytes}
        nats = text_nats(Path(self.input[0]), file_sha256) if len(self.input) == 1 else None
        if nats is not None:
            facts["nats"] = nats
        return facts, (
            f"{self.out}: {result.num_tokens:,} tokens from {result.num_bytes:,} bytes, "
            f"{result.num_bytes / result.num_tokens:.3f} bytes per token"
        )


@dataclass(frozen=True)
class TokenizerInspect:
    """Show the tokens of a text in alternating colours, each with its id."""

    text: Annotated[str, Positional]
    """Text to encode."""
    tokenizer: Path
    """Folder of the tokenizer, from lm tokenizer train."""

    def run(self) -> None:
        from tokenizer import Tokenizer
        from tokenizer.inspect import coloured

        print(coloured(Tokenizer.load(self.tokenizer), self.text))


@dataclass(frozen=True)
class TokenizerExport:
    """Write a tokenizer.json with which the library tokenizers encodes to the same ids."""

    tokenizer: Path
    """Folder of the tokenizer, from lm tokenizer train."""
    out: Path
    """File to write."""

    def run(self) -> None:
        from lm.files import reserved
        from tokenizer import Tokenizer

        with reserved(self.out):
            Tokenizer.load(self.tokenizer).save_tokenizers_json(self.out)
        show(str(self.out))


@dataclass(frozen=True)
class TokenizerImport:
    """Read a tokenizer.json of the library tokenizers (byte-level BPE), or GPT-2's files."""

    input: Path
    """File tokenizer.json, or a folder with it, or a folder with GPT-2's vocab.json and merges.txt."""
    out: Path
    """Folder to write."""
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """Texts that are always one token, for GPT-2's files, which do not name them. A tokenizer.json does."""

    def run(self) -> None:
        from lm.files import reserved
        from tokenizer import Tokenizer

        with reserved(self.out):
            if self.input.is_dir():
                tokenizer = Tokenizer.from_folder(self.input, self.special_tokens)
            else:
                tokenizer = Tokenizer.from_tokenizers_json(self.input)
            _save_tokenizer(tokenizer, self.out)
        show(f"{self.out}: {tokenizer.vocab_size:,} tokens")


@contextmanager
def _cluster(engine: str, scheduler: str | None) -> Iterator[Any]:
    """Yield a client of the Dask cluster that the flags ask for, or None."""
    from tokenizer.errors import InputError
    from tokenizer.parallel import dask_engine

    if engine == "local" and scheduler:
        raise InputError("--scheduler needs --engine dask: add --engine dask, or leave out --scheduler")
    with dask_engine.connect(scheduler) if engine == "dask" else nullcontext() as client:
        yield client


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    from lm.files import published

    with published(folder) as temporary:
        tokenizer.save(temporary)


@dataclass(frozen=True)
class TokenizerCommand:
    """Train a tokenizer, encode text with it, inspect or exchange it."""

    command: (
        Annotated[TokenizerTrain, subcommand("train", prefix_name=False)]
        | Annotated[TokenizerEncode, subcommand("encode", prefix_name=False)]
        | Annotated[TokenizerInspect, subcommand("inspect", prefix_name=False)]
        | Annotated[TokenizerExport, subcommand("export", prefix_name=False)]
        | Annotated[TokenizerImport, subcommand("import", prefix_name=False)]
    )

    def run(self) -> None:
        self.command.run()
