"""Files and folders are published whole or not at all."""

from pathlib import Path

import pytest

from lm.files import json_text, published, refuse_existing
from tokenizer import InputError


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with published(path) as temporary:
        temporary.write_text("text")
        assert not path.exists()
    assert path.read_text() == "text"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with published(path) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("a")
        assert not path.exists()
    assert [p.name for p in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with published(path) as temporary:
            if folder:
                temporary.mkdir()
                (temporary / "half").write_text("half")
            else:
                temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_existing_files_are_refused_and_empty_folders_are_not(tmp_path: Path) -> None:
    refuse_existing(tmp_path)
    refuse_existing(tmp_path / "none")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="exists already: choose another name"):
            refuse_existing(path)


def test_json_has_no_infinities() -> None:
    assert json_text({"a": "é"}) == '{\n  "a": "é"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        json_text(float("nan"))
