"""Encoding a file, alone or in several processes, that may die."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from tests.tokenizer.texts import CORNER_CASES
from tokenizer import InputError, Tokenizer, train_bpe
from tokenizer.encode_corpus import EncodeWorker, encode_corpus
from tokenizer.parallel import ranges
from tokenizer.parallel.workers import Result, Task, run_tasks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    stories = [f"Once upon a time, día {i}, it's {i * i}.\n\nThe end.\n<|endoftext|>\n" for i in range(4000)]
    path.write_bytes(("".join(stories) + "".join(CORNER_CASES)).encode())
    return path


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    return Tokenizer(*train_bpe(corpus, 400, ["<|endoftext|>"]), ["<|endoftext|>"])


@pytest.fixture
def no_file_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SMALL", 0)


@pytest.mark.usefixtures("no_file_is_small")
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_equals_encode(corpus: Path, tokenizer: Tokenizer, tmp_path: Path, num_workers: int) -> None:
    output = tmp_path / "ids.npy"
    result = encode_corpus(corpus, tokenizer, output, num_workers=num_workers)
    ids = np.load(output, mmap_mode="r", allow_pickle=False)
    assert ids.dtype == np.uint16
    assert ids.tolist() == tokenizer.encode(corpus.read_bytes().decode())
    assert (result.num_tokens, result.num_bytes, result.dtype) == (len(ids), corpus.stat().st_size, "uint16")
    assert [file.name for file in tmp_path.iterdir()] == ["ids.npy"]


def test_progress(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encode_corpus(corpus, tokenizer, tmp_path / "ids.npy", progress=True)
    assert "encode: 100%" in capfd.readouterr().err


def test_does_not_overwrite(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    output = tmp_path / "ids.npy"
    output.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        encode_corpus(corpus, tokenizer, output)
    assert output.read_text() == "precious"
    encode_corpus(corpus, tokenizer, output, overwrite=True)
    assert len(np.load(output)) > 0


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), (b"", "is empty"), (b"ok " * 20_000 + b"\xff", "not UTF-8 at byte 60000")],
)
@pytest.mark.usefixtures("no_file_is_small")
def test_bad_input(
    tokenizer: Tokenizer, tmp_path: Path, content: bytes | None, message: str, processes: int
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        encode_corpus(path, tokenizer, tmp_path / "ids.npy", num_workers=processes)
    assert not list(tmp_path.glob("*ids*"))


def test_output_folder_is_a_file(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="file"):
        encode_corpus(corpus, tokenizer, tmp_path / "file" / "ids.npy")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.usefixtures("no_file_is_small")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_several_files(tokenizer: Tokenizer, tmp_path: Path, num_workers: int) -> None:
    """The ids of several files are those of one after the other; a glob stands for files in order."""
    texts = ["One day.", "it's " * 3000, "<|endof", "text|>", ""]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    expected = [id_ for text in texts for id_ in tokenizer.encode(text)]
    paths = [tmp_path / f"{i}.txt" for i in range(len(texts))]
    for inputs in (paths, str(tmp_path / "*.txt")):
        result = encode_corpus(
            inputs, tokenizer, tmp_path / "ids.npy", num_workers=num_workers, overwrite=True
        )
        assert np.load(tmp_path / "ids.npy").tolist() == expected
        assert result.num_bytes == sum(map(len, texts))
    with pytest.raises(InputError, match=r"cannot read .*5.txt: No such file"):
        encode_corpus([*paths, tmp_path / "5.txt"], tokenizer, tmp_path / "more.npy")


class Dying:
    """A worker that in a process of its own dies, or fails, at its first task."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.process = os.getpid()

    def setup(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_setup(cls, setup: dict[str, Any]) -> Self:
        worker = cls(setup["how"])
        worker.process = setup["process"]
        return worker

    def run(self, task: Task) -> Result:
        if os.getpid() == self.process:
            time.sleep(0.02)  # so that the others have the time to start
        elif self.how == "dies":
            os._exit(7)
        elif self.how == "fails":
            raise ValueError("some bug")
        else:
            print("this must not get into the results")
        return [np.array([task[0], os.getpid()])]

    def finish(self) -> Result:
        return []


@pytest.mark.parametrize(("how", "message"), [("dies", r"exit code 7"), ("fails", "ValueError: some bug")])
def test_a_worker_that_dies_is_an_error(how: str, message: str) -> None:
    start = time.monotonic()
    results = run_tasks(Dying(how), ([i] for i in range(1000)), 2)
    with pytest.raises(RuntimeError, match=message):
        list(results)
    assert time.monotonic() - start < 20


def test_results_come_in_order_and_workers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **settings: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **settings))
        return started[-1]

    monkeypatch.setattr("tokenizer.parallel.workers.subprocess.Popen", start)
    # As many tasks as it takes until all three have run some.
    seen: set[int] = set()
    tasks = itertools.takewhile(lambda i: len(seen) < 3 or i < 100, itertools.count())
    numbers = []
    for result in run_tasks(Dying(""), ([i] for i in tasks), 3):
        if result:
            numbers.append(int(result[0][0]))
            seen.add(int(result[0][1]))
    assert numbers == list(range(len(numbers)))
    assert seen == {os.getpid(), *(process.pid for process in started)}
    assert len(started) == 2
    # A caller that loses interest.
    results = run_tasks(Dying(""), ([i] for i in range(1000)), 3)
    next(results)
    results.close()
    assert len(started) == 4
    assert all(process.poll() is not None for process in started)


class Failing(Dying):
    """A worker that fails at once. Meanwhile another process has begun an earlier task, which fails later."""

    def run(self, task: Task) -> Result:
        has_begun = Path(self.how)
        if os.getpid() != self.process:
            has_begun.touch()
            time.sleep(0.3)
            raise InputError("the earlier task")
        if has_begun.exists():
            raise InputError("a later task")
        time.sleep(0.02)
        return []


def test_the_error_of_the_earliest_task_is_raised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the earlier task"):
        list(run_tasks(Failing(str(tmp_path / "has begun")), ([i] for i in range(1000)), 2))


SCRIPT = """
import sys
print("main runs")  # at the top level: a second import of this file would print it again
from tokenizer import Tokenizer, train_bpe
from tokenizer.parallel import ranges
from tokenizer.encode_corpus import encode_corpus
ranges.SMALL = 0
vocab, merges = train_bpe(sys.argv[1], 300, ["<|endoftext|>"], num_workers=2)
encode_corpus(sys.argv[1], Tokenizer(vocab, merges, ["<|endoftext|>"]), sys.argv[2], num_workers=2)
"""


def test_main_module_runs_once(corpus: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(corpus), str(tmp_path / "ids.npy")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "main runs\n"
    assert (tmp_path / "ids.npy").exists()


def test_workers_import_no_framework() -> None:
    code = "import sys, tokenizer.encode_corpus, tokenizer.train_bpe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    unwanted = {"torch", "jax", "lm", "tqdm", "matplotlib", "multiprocessing", "tokenizer.textbook"}
    assert not unwanted & set(done.stdout.split())


@pytest.mark.parametrize("kill", ["SIGINT", "SIGKILL"])
def test_interrupted_leaves_no_output(corpus: Path, tokenizer: Tokenizer, tmp_path: Path, kill: str) -> None:
    """An interrupted run leaves the output unwritten, and no process behind."""
    big = tmp_path / "big.txt"
    big.write_bytes(corpus.read_bytes() * 200)
    tokenizer.save(tmp_path / "tokenizer")
    code = f"""
import sys
from tokenizer import Tokenizer
from tokenizer.parallel import workers
from tokenizer.encode_corpus import encode_corpus
class Popen(workers.subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        print(self.pid, flush=True)
workers.subprocess.Popen = Popen
encode_corpus({str(big)!r}, Tokenizer.load({str(tmp_path / "tokenizer")!r}), {str(tmp_path / "ids.npy")!r},
num_workers=2)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    with process.stdout:
        pids = [int(process.stdout.readline())]
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(".ids*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(getattr(__import__("signal"), kill))
        assert process.wait(20) != 0
    assert not (tmp_path / "ids.npy").exists()
    if kill == "SIGINT":
        assert not list(tmp_path.glob(".ids*"))
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_worker_result_is_that_of_the_tokenizer(corpus: Path, tokenizer: Tokenizer) -> None:
    worker = EncodeWorker(tokenizer.stream_encoder)
    worker = EncodeWorker.from_setup(json.loads(json.dumps(worker.setup())))
    ids, num_bytes = worker.run((str(corpus), 0, 1000))
    assert num_bytes == 1000
    assert tokenizer.decode(ids) == corpus.read_bytes()[:1000].decode()
