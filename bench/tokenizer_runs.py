"""One measurement in a process of its own: `python -m bench.tokenizer_runs NAME JOB`, for `bench.tokenizer`.

JOB is JSON with the paths of the corpora and the tokenizer; the result is a line of JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizer import END_OF_TEXT
from tokenizer.machine import peak_memory

Job = dict[str, Any]


def timed(call: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def train_twinlm(job: Job, corpus: str = "corpus", vocab_size: int | None = None) -> float:
    from tokenizer import train_bpe

    return timed(lambda: train_bpe(job[corpus], vocab_size or job["vocab_size"], [END_OF_TEXT]))


def train_tokenizers(job: Job, corpus: str = "corpus", vocab_size: int | None = None) -> float:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size or job["vocab_size"],
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return timed(lambda: tokenizer.train([job[corpus]], trainer))


def train_small_twinlm(job: Job) -> float:
    return train_twinlm(job, "small", 500)


def train_small_tokenizers(job: Job) -> float:
    return train_tokenizers(job, "small", 500)


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


def _text(job: Job) -> str:
    return Path(job["part"]).read_bytes().decode()


def encode_twinlm(job: Job) -> float:
    tokenizer, text = _twinlm(job), _text(job)
    return timed(lambda: tokenizer.encode_to_numpy(text))


def encode_tiktoken_ordinary(job: Job) -> float:
    encoding, text = _tiktoken(job), _text(job)
    return timed(lambda: encoding.encode_ordinary(text))


def encode_tiktoken_numpy(job: Job) -> float:
    encoding, text = _tiktoken(job), _text(job)
    return timed(lambda: encoding.encode_to_numpy(text, allowed_special="all"))


def encode_file(job: Job, num_workers: int) -> float:
    from tokenizer.encode_corpus import encode_corpus

    tokenizer, output = _twinlm(job), Path(job["tokenizer"]) / "ids.npy"
    output.unlink(missing_ok=True)
    return encode_corpus(job["corpus"], tokenizer, output, num_workers=num_workers).seconds


def encode_file_1(job: Job) -> float:
    return encode_file(job, 1)


def encode_file_2(job: Job) -> float:
    return encode_file(job, 2)


def _prompt(job: Job, encode: Callable[[str], object]) -> float:
    """Return the median time of a call with 100 characters that were encoded before."""
    prompt = _text(job)[1000:1100]
    return statistics.median(timed(lambda: encode(prompt)) for _ in range(3000))


def prompt_twinlm(job: Job) -> float:
    return _prompt(job, _twinlm(job).encode)


def prompt_tokenizers(job: Job) -> float:
    return _prompt(job, _tokenizers(job).encode)


def prompt_tiktoken(job: Job) -> float:
    return _prompt(job, _tiktoken(job).encode_ordinary)


if __name__ == "__main__":
    seconds = globals()[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps({"seconds": seconds, "peak_memory_mb": round(peak_memory() / 1e6)}))
