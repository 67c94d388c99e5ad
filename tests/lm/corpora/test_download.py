"""Downloads from a server that drops connections, stalls, lies and refuses."""

import gzip
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lm.corpora.download import DATASETS, HUB, download, get_dataset
from tests.lm.conftest import lm, refused
from tokenizer import InputError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT. Each request gets the next of the behaviours, and the last one repeats for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours = ["well"]
        self.content = CONTENT
        self.etag = '"v1"'
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        how = server.behaviours.pop(0) if len(server.behaviours) > 1 else server.behaviours[0]
        content = server.content
        if how.isdigit():
            self.send_error(int(how))
            return
        if how == "redirect" and not self.path.startswith("/cdn"):
            self.send_response(302)
            self.send_header("Location", "/cdn" + self.path)
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(CONTENT)))
            self.end_headers()
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.headers["If-Range"] == server.etag else 0
        if how == "no ranges":
            start = 0
        elif how == "another part" and start:
            start += 5
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        claimed = len(body) + {"claims more": 1000, "claims less": -1000}.get(how, 0)
        if how != "no length":
            self.send_header("Content-Length", str(claimed))
        self.send_header("ETag", server.etag)
        self.end_headers()
        if how in ("drops", "stalls"):
            body = body[:100_000]
        self.wfile.write(body)
        self.wfile.flush()
        if how == "stalls":
            time.sleep(1.0)
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, path: Path, attempts: int = 3) -> None:
    download(server.url + "/file", path, timeout=0.3, attempts=attempts, pause=0.001)


@pytest.mark.parametrize(
    ("behaviours", "ranges"),
    [
        (["well"], [None]),
        (["drops", "drops", "well"], [None, "bytes=100000-", "bytes=200000-"]),
        (["stalls", "well"], [None, "bytes=100000-"]),
        (["503", "429", "well"], [None, None, None]),
        (["drops", "503", "500", "well"], [None, *["bytes=100000-"] * 3]),
        (["drops", "no ranges"], [None, "bytes=100000-"]),
        (["drops", "416", "well"], [None, "bytes=100000-", None]),
        (["redirect", "redirect"], [None, None]),
        (["no length"], [None]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value[0], str) else "",
)
def test_a_download_survives_failures_that_pass(
    server: Server, tmp_path: Path, behaviours: list[str], ranges: list[str | None]
) -> None:
    server.behaviours = behaviours
    fetch(server, tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ranges
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("behaviours", "message"),
    [
        (["404"], "answers 404 Not Found; check the address"),
        (["403"], "answers 403"),
        (["500"], r"answers 500 .*3 times in a row"),
        (["claims more"], "announces 300000 bytes, and before 301000"),
        (["drops", "another part"], "sends a part that was not requested"),
    ],
)
def test_a_download_fails_with_the_reason(
    server: Server, tmp_path: Path, behaviours: list[str], message: str
) -> None:
    server.behaviours = behaviours
    with pytest.raises(InputError, match=f"^{server.url}/file: .*{message}"):
        fetch(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_server_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with Server() as server:
        url = server.url
    with pytest.raises(InputError, match="cannot be reached"):
        download(f"{url}/file", tmp_path / "file", attempts=2, pause=0.001)


def test_a_file_other_than_announced_is_deleted(server: Server, tmp_path: Path) -> None:
    server.etag = f'"{"0" * 64}"'
    with pytest.raises(InputError, match=f"has SHA-256 {SHA256}, and the server announced 000"):
        fetch(server, tmp_path / "file")
    assert not list(tmp_path.iterdir())
    server.etag, server.behaviours, server.content = '"v1"', ["redirect"], CONTENT[:-1000]
    with pytest.raises(InputError, match="sends 299000 bytes, and the hub announced 300000"):
        fetch(server, tmp_path / "file")
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(InputError, match="has SHA-256"):
        fetch(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server: Server, tmp_path: Path) -> None:
    server.behaviours = ["drops", "404"]
    with pytest.raises(InputError, match="404"):
        fetch(server, tmp_path / "file")
    server.behaviours, server.content, server.etag = ["well"], CONTENT[::-1], '"v2"'
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_lm_data_get(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.content = gzip.compress(b"some text\n" * 1000)
    server.etag = f'"{hashlib.sha256(server.content).hexdigest()}"'
    command = ("data", "get", "owt", "--out", tmp_path / "data", "--mirror", server.url)
    assert lm(*command) == 0
    names = ["owt_train.txt", "owt_valid.txt"]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == names
    assert (tmp_path / "data" / names[0]).read_bytes() == b"some text\n" * 1000
    assert [p for p, _ in server.requests] == [
        f"/stanford-cs336/owt-sample/resolve/main/{n}.gz" for n in names
    ]
    assert lm(*command) == 0
    assert "exists already" in capsys.readouterr().err
    assert len(server.requests) == 2
    server.content = server.content[:-9]
    server.etag = '"cut"'
    with pytest.raises(InputError, match=r"owt_train.txt.gz: not an intact .gz file"):
        get_dataset("owt", tmp_path / "other", server.url)
    assert not (tmp_path / "other" / "owt_train.txt").exists()
    server.behaviours = ["404"]
    assert "404" in refused(capsys, "data", "get", "tinystories", "--out", tmp_path, "--mirror", server.url)


def test_the_addresses_are_those_of_the_course() -> None:
    assert HUB == "https://huggingface.co/datasets"
    assert (
        DATASETS["tinystories"][1]
        == f"{HUB}/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-valid.txt"
    )
    assert DATASETS["owt"][0] == f"{HUB}/stanford-cs336/owt-sample/resolve/main/owt_train.txt.gz"
