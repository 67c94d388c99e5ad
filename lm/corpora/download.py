"""Download the course's texts, resume after a broken connection, check and unpack them."""

import gzip
import http.client
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm.files import alone_at, file_sha256, published, read_object, write_json
from tokenizer.errors import InputError
from tokenizer.files.publish import fsync

HUB = "https://huggingface.co/datasets"
DATASETS = {
    "tinystories": [
        f"{HUB}/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-{part}.txt"
        for part in ("train", "valid")
    ],
    "owt": [f"{HUB}/stanford-cs336/owt-sample/resolve/main/owt_{part}.txt.gz" for part in ("train", "valid")],
}
_CHUNK = 1 << 16


class _BrokenError(Exception):
    """A failure of the connection. Another attempt may succeed."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, and keeps the hub's headers about the file, which the last server does not send."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.linked |= {k.lower(): v for k, v in headers.items() if k.lower().startswith("x-linked-")}
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def get_dataset(name: str, folder: Path, mirror: str | None = None) -> None:
    """Download the training and validation text of a dataset into a folder. Files that exist already stay.

    Args:
        mirror: Address that replaces the hub's, without the dataset's name at its end; None for the hub.
    """
    for url in DATASETS[name]:
        path = folder / url.rpartition("/")[2]
        text = path.with_suffix("") if path.suffix == ".gz" else path
        with alone_at(text):
            if text.exists():
                print(f"{text}: exists already", file=sys.stderr)
                continue
            download(url if mirror is None else url.replace(HUB, mirror.rstrip("/")), path)
            if path != text:
                unpack(path, text)
        print(f"{text}: {text.stat().st_size:,} bytes", file=sys.stderr)


def download(url: str, path: Path, timeout: float = 30.0, attempts: int = 6, pause: float = 1.0) -> None:
    """Download a file. The bytes received so far are kept beside it as FILE.part, and the next attempt resumes there.

    Args:
        timeout: Seconds without a byte after which a connection counts as broken.
        attempts: Number of attempts in a row without a new byte before the download fails.
        pause: Seconds before the second attempt. Each further attempt waits twice as long.

    Raises:
        InputError: the server refuses or cannot be reached, or it sent something other than it announced.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    facts_path = path.with_name(path.name + ".part.json")
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            facts = _attempt(url, part, facts_path, timeout)
            break
        except _BrokenError as error:
            fruitless = 0 if part.exists() and part.stat().st_size > before else fruitless + 1
            if fruitless == attempts:
                raise InputError(
                    f"{url}: {error}, {attempts} times in a row; run the command again later, to resume the download"
                ) from None
            time.sleep(pause * 2 ** max(0, fruitless - 1))
    if facts["sha256"] is not None:
        actual = file_sha256(part)
        if actual != facts["sha256"]:
            part.unlink()
            facts_path.unlink()
            raise InputError(
                f"{url}: the file has SHA-256 {actual}, and the server announced {facts['sha256']}; try again"
            )
    fsync(part)
    part.rename(path)
    facts_path.unlink()


def _attempt(url: str, part: Path, facts_path: Path, timeout: float) -> dict[str, Any]:
    """Request the rest of a file and append it to `part`. Return the facts about the whole file.

    Raises:
        _BrokenError: the connection failed or ended too early.
        InputError: the server refuses, or contradicts itself.
    """
    try:
        known = read_object(facts_path, "")
    except InputError:
        known = {}
    can_continue = known.get("url") == url and isinstance(known.get("etag"), str) and known["etag"]
    have = part.stat().st_size if can_continue and part.exists() else 0
    request_headers = {"User-Agent": "twinlm", "Accept-Encoding": "identity"}
    if have:
        # With If-Range, the server sends the whole file if it has changed since.
        request_headers |= {"Range": f"bytes={have}-", "If-Range": known["etag"]}
    request, redirects = urllib.request.Request(url, headers=request_headers), _Redirects()
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=timeout) as response:
            headers = {k.lower(): v for k, v in response.headers.items()}
            headers |= redirects.linked
            have, size = _place(response.status, headers, have, url)
            if have and size != known.get("size"):
                part.unlink()
                raise InputError(
                    f"{url}: the server now announces {size} bytes, and before {known.get('size')}; try again later"
                )
            etag = headers.get("x-linked-etag") or headers.get("etag", "")
            sha256 = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', etag)
            facts = {
                "url": url,
                "etag": headers.get("etag", ""),
                "size": size,
                "sha256": sha256 and sha256[1],
            }
            write_json(facts_path, facts)
            _receive(response, part, have, size)
            return facts
    except urllib.error.HTTPError as error:
        if error.code == 416:
            # The server cannot send the rest of this part: start from the first byte.
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            raise _BrokenError(f"the server answers {error.code} {error.reason}") from None
        raise InputError(
            f"{url}: the server answers {error.code} {error.reason}; check the address"
        ) from None
    except urllib.error.URLError as error:
        raise _BrokenError(f"cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _BrokenError(f"the connection broke ({type(error).__name__})") from None


def _place(status: int, headers: dict[str, str], have: int, url: str) -> tuple[int, int | None]:
    """Return the position in the file of the response's first byte, and the size of the whole file if known."""
    size = int(headers["content-length"]) if headers.get("content-length", "").isdigit() else None
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("content-range", ""))
        if match is None or int(match[1]) != have:
            raise InputError(
                f"{url}: the server sends a part that was not requested; delete FILE.part, and try again"
            )
        start, size = have, int(match[3])
    else:
        start = 0
    linked = headers.get("x-linked-size", "")
    if linked.isdigit() and size is not None and int(linked) != size:
        raise InputError(
            f"{url}: the server sends {size} bytes, and the hub announced {linked}; try again later"
        )
    return start, size


def _receive(response: http.client.HTTPResponse, part: Path, have: int, size: int | None) -> None:
    """Append the response to `part`, after its first `have` bytes.

    Raises:
        _BrokenError: the response ended too early.
    """
    with (
        part.open("ab") as file,
        tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
    ):
        file.truncate(have)
        while chunk := response.read1(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            bar.update(len(chunk))
    if size is not None and have < size:
        raise _BrokenError(f"the connection ended after {have} of {size} bytes")


def unpack(packed: Path, path: Path) -> None:
    """Unpack a .gz file, verify its checksum, and delete it.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with gzip.open(packed) as source, published(path) as temporary, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{packed}: not an intact .gz file ({error}); delete it and download it again"
        ) from None
    packed.unlink()
