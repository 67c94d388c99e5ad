"""Counting and encoding on a Dask cluster: two worker processes, which may be killed."""

import gzip
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import fsspec
import numpy as np
import pytest
from distributed import Client, LocalCluster

from lm.cli import main
from tests.tokenizer.texts import CORNER_CASES
from tokenizer import InputError, Tokenizer, train_bpe
from tokenizer.encode_corpus import EncodeWorker, encode_corpus
from tokenizer.parallel import dask_engine
from tokenizer.parallel.dask_engine import connect, map_tasks, reduce_tasks
from tokenizer.parallel.ranges import cut_files
from tokenizer.parallel.workers import Result, Task
from tokenizer.train_bpe import train

SPECIAL = ["<|endoftext|>", "<|>"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("texts")
    for i in range(3):
        stories = [f"Once upon a time, día {i * n}, it's <|>{n * n}.\n\n<|endoftext|>" for n in range(1000)]
        (folder / f"{i}.txt").write_bytes(("".join(stories) + "".join(CORNER_CASES[i::3])).encode())
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Tokenizer:
    return Tokenizer(*train_bpe(texts, 400, SPECIAL), SPECIAL)


@pytest.fixture(scope="module")
def ids(texts: list[str], tokenizer: Tokenizer) -> list[int]:
    return [id_ for text in texts for id_ in tokenizer.encode(Path(text).read_bytes().decode())]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(dask_engine, "RANGE", 5000)  # so that there are many
    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


def test_encoding_equals_one_process(
    client: Client,
    texts: list[str],
    tokenizer: Tokenizer,
    ids: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = encode_corpus(texts, tokenizer, tmp_path / "one.npy", num_workers=1)
    monkeypatch.chdir(Path(texts[0]).parent)  # the workers are not in this folder
    dask = encode_corpus([Path(text).name for text in texts], tokenizer, tmp_path / "dask.npy", client=client)
    assert (tmp_path / "dask.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    assert (dask.num_tokens, dask.num_bytes) == (one.num_tokens, one.num_bytes)
    assert np.load(tmp_path / "dask.npy").tolist() == ids


@pytest.mark.parametrize("pattern", ["gpt2", r"[^\n]*"])
def test_training_equals_one_process(client: Client, texts: list[str], pattern: str) -> None:
    one = train(texts, 400, SPECIAL, num_workers=1, pattern=pattern)
    dask = train(texts, 400, SPECIAL, client=client, pattern=pattern)
    assert (dask.vocab, dask.merges) == (one.vocab, one.merges)
    assert (dask.num_bytes, dask.num_tokens, dask.num_distinct_pieces) == (
        one.num_bytes,
        one.num_tokens,
        one.num_distinct_pieces,
    )


def test_pairs_are_trained_on(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(f'{{"prefix": "it\'s {i}", "target": "día {i * i}"}}\n' for i in range(1000)))
    assert train_bpe(path, 300, SPECIAL, client=client) == train_bpe(path, 300, SPECIAL, num_workers=1)
    (tmp_path / "text.txt").write_bytes(gzip.compress(b"text"))
    with pytest.raises(
        InputError, match=r"text\.txt is compressed, which the machines of a Dask cluster cannot share"
    ):
        train_bpe(tmp_path / "text.txt", 300, client=client)


class DyingOnce:
    """A worker that kills its process at task 5, the first time."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def setup(self) -> dict[str, Any]:
        return {"marker": self.marker}

    @classmethod
    def from_setup(cls, setup: dict[str, Any]) -> Self:
        return cls(**setup)

    def run(self, task: Task) -> Result:
        if task == [5] and not os.path.exists(self.marker):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [np.array(task)]

    def finish(self) -> Result:
        return [np.array([1])]


def add(parts: list[Result]) -> Result:
    return [np.sum([part[i] for part in parts], axis=0) for i in range(2)]


def test_few_tasks_are_on_their_way(client: Client, tmp_path: Path) -> None:
    (tmp_path / "died").touch()
    given: list[int] = []

    def tasks() -> Iterator[list[int]]:
        for i in range(30):
            given.append(i)
            yield [i]

    results = map_tasks(DyingOnce(str(tmp_path / "died")), tasks(), client)
    for number, result in enumerate(results):
        assert result[0] == [number]
        assert len(given) <= number + 2 * dask_engine.AHEAD
    assert number == 29


def test_an_error_names_file_and_byte(client: Client, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"ok " * 20_000 + b"\xff")
    with pytest.raises(InputError, match=r"text.txt is not UTF-8 at byte 60000"):
        encode_corpus(path, tokenizer, tmp_path / "ids.npy", client=client)
    with pytest.raises(InputError, match=r"text.txt is not UTF-8 at byte 60000"):
        train(path, 400, client=client)
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


def test_addresses(client: Client, texts: list[str], tokenizer: Tokenizer, tmp_path: Path) -> None:
    """What fsspec reads is the same text, for both engines."""
    encode_corpus(texts, tokenizer, tmp_path / "local.npy")
    expected = (tmp_path / "local.npy").read_bytes()
    pattern = f"file://{Path(texts[0]).parent}/*.txt"
    encode_corpus(pattern, tokenizer, tmp_path / "file.npy", client=client)
    assert (tmp_path / "file.npy").read_bytes() == expected
    memory = fsspec.filesystem("memory")
    for i, text in enumerate(texts):
        memory.pipe(f"/texts/{i}.txt", Path(text).read_bytes())
    encode_corpus("memory://texts/*.txt", tokenizer, tmp_path / "memory.npy", num_workers=1)
    assert (tmp_path / "memory.npy").read_bytes() == expected
    assert train_bpe("memory://texts/*.txt", 400, SPECIAL) == train_bpe(texts, 400, SPECIAL)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://none", r"cannot read memory://none: FileNotFoundError"),
        ("no-such-protocol://x", "cannot read no-such-protocol://x: Protocol not known"),
    ],
)
def test_bad_addresses(tokenizer: Tokenizer, tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode_corpus(address, tokenizer, tmp_path / "ids.npy")


def test_without_the_extra(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("distributed", "fsspec"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "fsspec.core")
    with pytest.raises(InputError, match=r"reading memory://a needs fsspec.*twinlm\[dask\]"):
        encode_corpus("memory://a", tokenizer, tmp_path / "ids.npy")
    (tmp_path / "text.txt").write_text("text")
    arguments = ["--input", str(tmp_path / "text.txt"), "--vocab-size", "300", "--out", str(tmp_path / "out")]
    assert main(["tokenizer", "train", *arguments, "--engine", "dask"]) == 2
    assert capsys.readouterr().err == (
        "lm: Dask is not installed; install it with: pip install 'twinlm[dask]'\n"
    )
    assert main(["tokenizer", "train", *arguments, "--scheduler", "tcp://here"]) == 2
    assert "--scheduler needs --engine dask" in capsys.readouterr().err


def test_no_scheduler() -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        connect("tcp://127.0.0.1:9"),
    ):
        pass


def test_command(cluster: LocalCluster, texts: list[str], tokenizer: Tokenizer, tmp_path: Path) -> None:
    engine = ["--engine", "dask", "--scheduler", cluster.scheduler_address]
    folder, out = str(tmp_path / "tokenizer"), tmp_path / "ids.npy"
    train_flags = ["--input", *texts, "--vocab-size", "400", "--special-tokens", *SPECIAL, "--out", folder]
    assert main(["tokenizer", "train", *train_flags, *engine]) == 0
    assert Tokenizer.load(folder).sha256 == tokenizer.sha256
    encode_flags = ["--tokenizer", folder, "--input", *texts, "--out", str(out)]
    assert main(["tokenizer", "encode", *encode_flags, *engine]) == 0
    encode_corpus(texts, tokenizer, tmp_path / "one.npy", num_workers=1)
    assert out.read_bytes() == (tmp_path / "one.npy").read_bytes()
    assert json.loads((tmp_path / "ids.npy.json").read_text())["tokenizer_sha256"] == tokenizer.sha256


def test_no_result_is_counted_twice_or_lost(client: Client, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    total, count = reduce_tasks(DyingOnce(str(marker)), ([i] for i in range(100)), add, client)
    assert (total.tolist(), count.tolist()) == ([4950], [100])
    assert marker.exists()


def test_a_killed_worker_is_replaced(
    client: Client, texts: list[str], tokenizer: Tokenizer, ids: list[int]
) -> None:
    """Its tasks run again: those that wait, and those whose results were lost with it."""
    tasks = cut_files(texts, tokenizer.pretokenizer, 2000)
    pids = list(client.run(os.getpid).values())
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    encoded: list[int] = []
    for number, result in enumerate(map_tasks(EncodeWorker(tokenizer.stream_encoder), tasks, client)):
        encoded += result[0].tolist()
        if number == 3:
            os.kill(pids[0], signal.SIGKILL)
    assert number > 20
    assert encoded == ids
