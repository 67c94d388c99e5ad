"""Show a page in Chromium at a desktop's and a phone's width, in light and in dark mode, and use it."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="shows a page in Chromium, which is not installed"
)
VIEWS = [(width, dark) for width in (1200, 390) for dark in (False, True)]
"""Widths in pixels, and whether the page is shown in dark mode."""

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,3600", "--dump-dom")


def browse(page: str, looks: str, folder: Path, names: str = "") -> list[list[dict[str, Any]]]:
    """Return what `looks` finds in each view: a JavaScript list of looks at the page and of actions between them.

    `names` declares what `looks` uses. Every view is a frame of one page, so that Chromium starts once: a frame's color
    scheme is its page's preferred one. The script runs outside of the frames, since a page may forbid scripts.
    """
    frames = (
        f'<iframe width="{width}" height="850" style="border: 0; color-scheme: {"dark" if dark else "light"}" '
        f'srcdoc="{escape(page)}"></iframe>'
        for width, dark in VIEWS
    )
    script = (
        f"const look_at = (window, document) => {{ {_SCRIPT}{names}\nreturn [{looks}]; }};"
        "onload = () => document.getElementById('found').textContent = JSON.stringify("
        "[...document.querySelectorAll('iframe')].map(f => look_at(f.contentWindow, f.contentDocument)));"
        "onerror = message => document.getElementById('found').textContent = JSON.stringify(message);"
    )
    (folder / "views.html").write_text(
        f'<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>{script}</script>{"".join(frames)}',
        encoding="utf-8",
    )
    assert CHROMIUM
    command = [CHROMIUM, *_OPTIONS, (folder / "views.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found
    views = json.loads(unescape(found[1]))
    assert isinstance(views, list), views
    for (width, dark), view in zip(VIEWS, views, strict=True):
        assert all((look["width"], look["dark"]) == (width, dark) for look in view)
    return views


def check_readable(look: dict[str, Any]) -> None:
    """Check that nothing is wider than the page or cut off, and that WCAG's contrasts of level AA are met."""
    assert look["needs"] <= look["width"]
    assert look["cut"] == []
    assert [text for text in look["texts"] if text["contrast"] < 4.5] == []
    assert [mark for mark in look["marks"] if mark["contrast"] < 3] == []
