"""The stories make sense, their words are many, and the file is complete or absent."""

import hashlib
import itertools
import json
import math
import os
import re
import tracemalloc
from pathlib import Path

import pytest

from lm.corpora.stories import END, iter_stories, write_stories
from lm.corpora.stories.plots import GRAMMAR
from tests.lm.corpora.test_grammar import every_template
from tokenizer.errors import InputError


def test_slots_are_drawn_as_often_as_their_probabilities_say() -> None:
    number = 10_000
    texts = [text for text, _ in itertools.islice(iter_stories(seed=3), number)]
    marks = {
        "an old map": 1 / 10,
        "a strange noise": 1 / 10,
        "Long, long ago": 1 / 7,
        "“": 1 / 3,
        "Once": 3 / 7,
    }
    for mark, probability in marks.items():
        count = sum(mark in text for text in texts)
        sigma = math.sqrt(number * probability * (1 - probability))
        assert abs(count - number * probability) < 4 * sigma, mark


def select(plot: str, sample: list[tuple[str, float]]) -> list[str]:
    texts = [text for text, _ in sample if plot in text]
    assert len(texts) > 10
    return texts


def test_what_is_lost_is_what_is_found(sample: list[tuple[str, float]]) -> None:
    for text in select("I lost my", sample):
        lost = re.search(r"I lost my ([\w -]+),[”\"] said (\w+)", text)
        assert lost
        assert f"they found the {lost[1]} " in text.split("\n")[-2]
        assert re.search(rf"named {lost[2]}\b|^{lost[2]}\b", text.split("\n")[0])


def test_the_map_is_followed(sample: list[tuple[str, float]]) -> None:
    for text in select("The map said", sample):
        plan = re.search(r"first go to (.+), then to (.+), and then to (.+?)\.", text)
        assert plan
        assert len(set(plan.groups())) == 3
        assert re.search(f"First they [a-z]+ to {plan[1]}\\..* Then they [a-z]+ to {plan[2]}\\.", text)
        assert f"At last they came to {plan[3]}." in text
        assert f"We went to {plan[1]}, to {plan[2]} and to {plan[3]}," in text


def test_pronouns_and_quotes_agree(sample: list[tuple[str, float]]) -> None:
    girls = {option[""] for option in GRAMMAR["girl"].options}
    for text, _ in sample:
        beginning = text.split("\n")[0]  # it is only about the hero
        is_girl = any(re.search(rf"named {name}\b|\b{name} lived", beginning) for name in girls)
        assert not re.search(r"\b(he|him|his)\b" if is_girl else r"\b(she|her)\b", beginning, re.IGNORECASE)
        assert not ('"' in text and "“" in text)
        assert text.count("“") == text.count("”")
        assert text.count('"') % 2 == 0


def test_a_and_an_are_right(sample: list[tuple[str, float]]) -> None:
    phrases = {text for _, form, text in every_template() if form == "a" and "{" not in text}
    assert {"a kite", "an apple", "a ukulele", "an umbrella", "a unicorn", "an honest", "a useful"} <= phrases
    wrong = re.compile(r"\b[Aa] (?!uni|use|usu|uku|one)[aeiou]|\b[Aa]n (?!ho)[^aeiou]")
    for text in [*phrases, *(text for text, _ in sample)]:
        assert not wrong.search(text), text


def test_the_vocabulary_is_rich() -> None:
    words: set[str] = set()
    size = 0
    for text, _ in iter_stories(seed=5):
        words.update(re.findall(r"\w+", text.lower()))
        size += len(text)
        if size > 3_000_000:
            break
    assert len(words) >= 3_300
    assert {"zoë", "josé", "chloé"} <= words


def test_the_size_and_the_entropy_suit_a_small_model(sample: list[tuple[str, float]]) -> None:
    sizes = [len(text.encode()) for text, _ in sample]
    assert min(sizes) > 500
    assert max(sizes) < 1_500
    assert 0.09 < sum(nats for _, nats in sample) / sum(sizes) < 0.2  # nats per byte


def test_the_file_and_its_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    info = write_stories(path, 50_000, seed=1)
    data = path.read_bytes()
    documents = data.decode("utf-8").split(END)
    assert documents.pop() == ""
    stories = list(itertools.islice(iter_stories(1), len(documents)))
    assert documents == [text for text, _ in stories]
    assert 50_000 <= len(data) < 50_000 + 2_000, "whole stories, and not one more than needed"
    sidecar = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    assert sidecar == {
        "kind": "twinlm stories",
        "seed": 1,
        "documents": len(documents),
        "bytes": len(data),
        "nats": pytest.approx(math.fsum(nats for _, nats in stories)),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert sidecar == vars(info)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stories.txt", "stories.txt.json"]


def test_the_text_depends_on_the_seed_alone(tmp_path: Path) -> None:
    for name, size, seed in [
        ("short", 1, 7),
        ("long", 2_000_000, 7),
        ("again", 2_000_000, 7),
        ("other", 2_000_000, 8),
    ]:
        write_stories(tmp_path / name, size, seed)
    short, long, again, other = (
        (tmp_path / name).read_bytes() for name in ("short", "long", "again", "other")
    )
    assert long == again
    assert long.startswith(short)
    assert short.count(END.encode()) == 1
    assert not set(long.split(END.encode())[:-1]) & set(other.split(END.encode())[:-1])


def test_these_are_the_stories_of_every_version() -> None:
    # Floors and loss curves are compared across versions, so the grammar must not change by accident.
    text = "".join(text for text, _ in itertools.islice(iter_stories(seed=0), 100))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "8db3ce857a93438b"


def test_memory_does_not_grow_with_the_size(tmp_path: Path) -> None:
    peaks = []
    for size in (1_000_000, 4_000_000):
        tracemalloc.start()
        write_stories(tmp_path / str(size), size, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("size", "seed", "message"),
    [(0, 0, "0 bytes"), (-5, 0, "-5 bytes"), (1, -1, "seed -1"), (1, 2**64, "seed")],
)
def test_sizes_and_seeds_out_of_range_are_refused(tmp_path: Path, size: int, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_stories(tmp_path / "stories.txt", size, seed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["stories.txt", "stories.txt.json"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(InputError, match=f"{taken} exists already"):
        write_stories(tmp_path / "stories.txt", 1, seed=0)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(taken, "mine")]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        write_stories(tmp_path / "nowhere" / "stories.txt", 1, seed=0)


def test_a_failed_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_stories(tmp_path / "stories.txt", 1, seed=0)
    assert not list(tmp_path.iterdir())
