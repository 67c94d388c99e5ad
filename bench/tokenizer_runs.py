"""One measurement in a process of its own: `python -m bench.tokenizer_runs NAME JOB`, for `bench.tokenizer`.

JOB is JSON with the paths of the corpora and the tokenizer; the result is a line of JSON.
"""

import hashlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer import END_OF_TEXT
from tokenizer.machine import peak_memory

Job = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a measurement found."""

    seconds: float
    """Time of the first call."""
    warm_seconds: float | None = None
    """Time of a second call with equal arguments."""
    peak_memory_mb: int = 0
    output: str | None = None
    """Hash of the ids or of the text, to compare contenders."""


def timed(call: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def once(call: Callable[[], object]) -> Result:
    """Time one call."""
    seconds = timed(call)
    return Result(seconds, peak_memory_mb=round(peak_memory() / 1e6))


def twice(call: Callable[[], Any], as_bytes: Callable[[Any], bytes]) -> Result:
    """Time a call, and then an equal one."""
    start = time.perf_counter()
    output = call()
    seconds = time.perf_counter() - start
    memory = round(peak_memory() / 1e6)
    return Result(seconds, timed(call), memory, hashlib.sha256(as_bytes(output)).hexdigest())


def ids_bytes(ids: Iterable[int]) -> bytes:
    """Return ids as bytes, whatever holds them."""
    return np.asarray(ids, np.uint32).tobytes()


def batch_bytes(batch: Iterable[Iterable[int]]) -> bytes:
    """Return the ids of several texts as bytes."""
    return ids_bytes(list(itertools.chain.from_iterable(batch)))


def train_twinlm(job: Job, corpus: str = "corpus", vocab_size: int | None = None) -> Result:
    from tokenizer import train_bpe

    return once(lambda: train_bpe(job[corpus], vocab_size or job["vocab_size"], [END_OF_TEXT]))


def train_tokenizers(job: Job, corpus: str = "corpus", vocab_size: int | None = None) -> Result:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size or job["vocab_size"],
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return once(lambda: tokenizer.train([job[corpus]], trainer))


def train_gigatoken(job: Job, corpus: str = "corpus", vocab_size: int | None = None) -> Result:
    import gigatoken

    path = Path(job[corpus])
    return once(lambda: gigatoken.train_bpe(path, vocab_size or job["vocab_size"], [END_OF_TEXT]))


def train_small_twinlm(job: Job) -> Result:
    return train_twinlm(job, "small", 500)


def train_small_tokenizers(job: Job) -> Result:
    return train_tokenizers(job, "small", 500)


def train_small_gigatoken(job: Job) -> Result:
    return train_gigatoken(job, "small", 500)


def _twinlm(job: Job) -> Any:
    from tokenizer import Tokenizer

    return Tokenizer.load(job["tokenizer"])


def _tiktoken(job: Job) -> Any:
    import tiktoken
    from tiktoken_ext.openai_public import (  # type: ignore[import-untyped]
        r50k_pat_str,  # tiktoken's own, faster spelling of GPT-2's pattern
    )

    tokenizer = _twinlm(job)
    special = dict(tokenizer.special_tokens)
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special.values()}
    return tiktoken.Encoding("bench", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special)


def _tokenizers(job: Job) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(job["tokenizer"]) / "tokenizer.json"))


def _fastokens(job: Job) -> Any:
    from fastokens import Tokenizer

    return Tokenizer.from_file(str(Path(job["tokenizer"]) / "tokenizer.json"))


def _gigatoken(job: Job) -> Any:
    from gigatoken import Tokenizer

    return Tokenizer(str(Path(job["tokenizer"]) / "tokenizer.json"))


def _text(job: Job) -> str:
    return Path(job["part"]).read_bytes().decode()


def encode_twinlm(job: Job) -> Result:
    tokenizer, text = _twinlm(job), _text(job)
    return twice(lambda: tokenizer.encode_to_numpy(text), ids_bytes)


def encode_tiktoken_ordinary(job: Job) -> Result:
    encoding, text = _tiktoken(job), _text(job)
    return twice(lambda: encoding.encode_ordinary(text), ids_bytes)


def encode_tiktoken_numpy(job: Job) -> Result:
    encoding, text = _tiktoken(job), _text(job)
    return twice(lambda: encoding.encode_to_numpy(text, allowed_special="all"), ids_bytes)


def encode_fastokens(job: Job) -> Result:
    tokenizer, text = _fastokens(job), _text(job)
    return twice(lambda: tokenizer.encode(text).ids, ids_bytes)


def encode_gigatoken(job: Job) -> Result:
    tokenizer, text = _gigatoken(job), _text(job)
    return twice(lambda: tokenizer.encode(text), ids_bytes)


def encode_file(job: Job, num_workers: int) -> Result:
    from tokenizer.encode_corpus import encode_corpus

    tokenizer, output = _twinlm(job), Path(job["tokenizer"]) / "ids.npy"
    output.unlink(missing_ok=True)
    seconds = encode_corpus(job["corpus"], tokenizer, output, num_workers=num_workers).seconds
    return Result(seconds, peak_memory_mb=round(peak_memory() / 1e6))


def encode_file_1(job: Job) -> Result:
    return encode_file(job, 1)


def encode_file_2(job: Job) -> Result:
    return encode_file(job, 2)


def _texts(job: Job) -> list[str]:
    """Return 10,000 short texts: 500 characters each."""
    text = _text(job)[:5_000_000]
    return [text[start : start + 500] for start in range(0, len(text), 500)]


def batch_twinlm(job: Job) -> Result:
    tokenizer, texts = _twinlm(job), _texts(job)
    return twice(lambda: tokenizer.encode_batch(texts), batch_bytes)


def batch_tiktoken(job: Job, threads: int = 1) -> Result:
    encoding, texts = _tiktoken(job), _texts(job)
    return twice(
        lambda: encoding.encode_batch(texts, num_threads=threads, allowed_special="all"), batch_bytes
    )


def batch_tokenizers(job: Job) -> Result:
    tokenizer, texts = _tokenizers(job), _texts(job)
    return twice(lambda: [found.ids for found in tokenizer.encode_batch_fast(texts)], batch_bytes)


def batch_fastokens(job: Job) -> Result:
    tokenizer, texts = _fastokens(job), _texts(job)
    return twice(lambda: [found.ids for found in tokenizer.encode_batch(texts)], batch_bytes)


def batch_gigatoken(job: Job) -> Result:
    tokenizer, texts = _gigatoken(job), _texts(job)
    return twice(lambda: tokenizer.encode_batch_list(texts, parallel=_threads() > 1), batch_bytes)


def _threads() -> int:
    """Return the number of threads that the contenders in Rust use. `bench.tokenizer` limits it to 1 for most rows."""
    return int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count() or 1))


threads_tokenizers, threads_fastokens, threads_gigatoken = batch_tokenizers, batch_fastokens, batch_gigatoken


def threads_tiktoken(job: Job) -> Result:
    return batch_tiktoken(job, _threads())


def _prompts(job: Job) -> list[str]:
    """Return 4,000 prompts: whole words of the text, together about 100 characters."""
    prompts: list[str] = []
    words = _text(job)[: 150 * 4000].split(" ")
    while len(prompts) < 4000:
        length, count = -1, 0
        while length < 90:
            length += 1 + len(words[count])
            count += 1
        prompts.append(" ".join(words[:count]))
        del words[:count]
    return prompts


def _prompt(job: Job, encode: Callable[[str], object]) -> Result:
    """Return the median time of a call with about 100 characters. A thousand other prompts come first."""
    seconds = [timed(lambda prompt=prompt: encode(prompt)) for prompt in _prompts(job)]  # type: ignore[misc]
    return Result(statistics.median(seconds[1000:]), peak_memory_mb=round(peak_memory() / 1e6))


def prompt_twinlm(job: Job) -> Result:
    return _prompt(job, _twinlm(job).encode)


def prompt_tiktoken(job: Job) -> Result:
    return _prompt(job, _tiktoken(job).encode_ordinary)


def prompt_tokenizers(job: Job) -> Result:
    return _prompt(job, _tokenizers(job).encode)


def prompt_fastokens(job: Job) -> Result:
    return _prompt(job, _fastokens(job).encode)


def prompt_gigatoken(job: Job) -> Result:
    return _prompt(job, _gigatoken(job).encode)


def _ids(job: Job) -> Any:
    return _twinlm(job).encode_to_numpy(_text(job))[:1_000_000]


def decode_twinlm(job: Job) -> Result:
    tokenizer, ids = _twinlm(job), _ids(job).tolist()
    return twice(lambda: tokenizer.decode(ids), str.encode)


def decode_tiktoken(job: Job) -> Result:
    encoding, ids = _tiktoken(job), _ids(job).tolist()
    return twice(lambda: encoding.decode(ids), str.encode)


def decode_tokenizers(job: Job) -> Result:
    tokenizer, ids = _tokenizers(job), _ids(job).tolist()
    return twice(lambda: tokenizer.decode(ids, skip_special_tokens=False), str.encode)


def decode_fastokens(job: Job) -> Result:
    tokenizer, ids = _fastokens(job), _ids(job).tolist()
    return twice(lambda: tokenizer.decode(ids), str.encode)


def decode_gigatoken(job: Job) -> Result:
    tokenizer, ids = _gigatoken(job), _ids(job)
    return twice(lambda: tokenizer.decode(ids).decode(errors="replace"), str.encode)


if __name__ == "__main__":
    print(json.dumps(asdict(globals()[sys.argv[1]](json.loads(sys.argv[2])))))
