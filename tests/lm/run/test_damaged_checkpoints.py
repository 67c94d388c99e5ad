"""Thousands of damaged checkpoints. Each is refused with a message that names one of its files, or loads unchanged."""

import json
import os
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lm.config import ModelConfig, TrainConfig
from lm.files import json_text
from lm.init import initial_weights, optimizer_shapes
from lm.mesh import Mesh
from lm.run import checkpoint
from lm.run.facts import load_facts
from lm.run.leaves import Leaves
from lm.run.loading import load_state
from lm.run.progress import Progress, read_progress
from tests.lm.run.test_checkpoint import remake_manifest
from tokenizer import InputError

CONFIG = TrainConfig(
    ModelConfig(vocab_size=5, context_length=4, d_model=2, num_layers=1, num_heads=1, d_ff=3)
)
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
SHAPES = optimizer_shapes(CONFIG.model)
COUNT = 2300


def collect(
    config: TrainConfig, weights: Leaves, optimizer: Leaves | None, mesh: Mesh | None
) -> dict[str, Any]:
    """Shapes and types that a backend would load."""
    assert optimizer is not None
    read = ((name, leaf[...]) for leaves in (weights, optimizer) for name, leaf in leaves)
    return {name: (array.shape, array.dtype) for name, array in read}


def load(path: Path) -> tuple[TrainConfig, dict[str, Any], dict[str, Any]]:
    """All of a checkpoint, as `lm train --resume` reads it."""
    config, facts = load_facts(path)
    backend: Any = SimpleNamespace(load_state=collect)
    return config, facts, load_state(path, config, backend, with_optimizer=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    moments = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    moments["step"] = np.array(7, np.int32)
    facts = {
        "config": asdict(CONFIG),
        "seed": 0,
        "threads": None,
        "backend": "torch",
        "versions": {},
        **asdict(Progress(val_loss=1.0, best_val_loss=1.0)),
        **dict.fromkeys(("tokenizer_sha256", "train_sha256", "val_sha256"), "0" * 64),
    }
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    return checkpoint.save(folder, 7, initial_weights(CONFIG.model, 0, "float32"), moments.items(), facts)


def flip(path: Path, draw: random.Random) -> None:
    file = path / draw.choice(FILES)
    data = bytearray(file.read_bytes())
    for _ in range(draw.choice([1, 1, 1, 5, 50])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    file = path / draw.choice(FILES)
    data = file.read_bytes()
    cut = draw.randrange(len(data))
    file.write_bytes(draw.choice([data[:cut], data[cut + 1 :], data[:cut] + data[cut + 9 :], b""]))


def lengthen(path: Path, draw: random.Random) -> None:
    file = path / draw.choice(FILES)
    data = file.read_bytes()
    at = draw.randrange(len(data) + 1)
    file.write_bytes(data[:at] + draw.randbytes(draw.choice([1, 8, 1000])) + data[at:])


def exchange(path: Path, draw: random.Random) -> None:
    """Remove a file, replace it by another file, a folder, a link, a pipe or a device, or add one."""
    file = path / draw.choice(FILES)
    other = path / draw.choice(FILES)
    match draw.randrange(8):
        case 0:
            file.unlink()
        case 7:
            file.unlink()
            file.symlink_to(draw.choice([Path("/dev/zero"), path, file, other]))
        case 1:
            file.write_bytes(other.read_bytes() if other != file else b"\0")
        case 2:
            file.unlink()
            file.mkdir()
        case 3:
            file.unlink()
            file.symlink_to(path / "nowhere")
        case 4:
            file.unlink()
            os.mkfifo(file)
        case 5:
            (
                path / draw.choice(["optimizer.pt", "model.pkl", "__init__.py", ".hidden", "step-00000001"])
            ).mkdir()
        case 6:
            (path / draw.choice(["optimizer.pt", "model.pkl", "__init__.py", ".hidden"])).write_bytes(
                b"\x80\x04."
            )


def odd(draw: random.Random) -> Any:
    deep: Any = []
    for _ in range(draw.choice([1, 50])):
        deep = [deep]
    return draw.choice(
        [
            None,
            True,
            -1,
            0,
            2**63,
            10**400,
            1.5,
            float("nan"),
            float("inf"),
            "",
            "\ud800",
            "x" * 5000,
            {},
            deep,
        ]
    )


def state(path: Path, draw: random.Random) -> None:
    """Put a strange value or key into state.json."""
    facts = json.loads((path / "state.json").read_text())
    table = draw.choice([facts, facts["config"], facts["config"]["model"], facts["config"]["optimizer"]])
    key = draw.choice([*table, "extra"])
    if draw.random() < 0.3:
        table.pop(key, None)
    else:
        table[key] = odd(draw)
    text = json.dumps(facts)
    if draw.random() < 0.1:
        deep = text[:-1] + ', "a": ' + "[" * 100_000 + "]" * 100_000 + "}"
        text = draw.choice(["[" * 100_000, '{"a":' * 100_000, deep, "9" * 6000, "null", "\ufeff" + text])
    code = draw.choice(["utf-8"] * 9 + ["utf-16", "latin-1"])
    (path / "state.json").write_bytes(
        text.replace("torch", "t\u00f6rch" if code == "latin-1" else "torch").encode(code)
    )


def header(path: Path, draw: random.Random) -> None:
    """Make the header of a safetensors file wrong: sizes, names, shapes, types or places."""
    file = path / draw.choice(FILES[:2])
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    table, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = draw.choice([n for n in table if n != "__metadata__"])
    match draw.randrange(11):
        case 0:
            absurd = draw.choice([0, 1, 2**20, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, len(data), size - 1])
            file.write_bytes(struct.pack("<Q", absurd) + data[8:])
            return
        case 1:
            table[draw.choice(["extra", "", name + ".", "\u0000", "m." + name])] = table.pop(name)
        case 2:
            table[name]["shape"] = draw.choice(
                [[], [0], [2**40, 2**40], [-1], [1, *table[name]["shape"]], [10**30]]
            )
        case 3:
            table[name]["dtype"] = draw.choice(
                ["F16", "BF16", "F8_E4M3", "I64", "BOOL", "U8", "object", "F64", ""]
            )
        case 4:
            table[name]["data_offsets"] = draw.choice(
                [[0, 0], [0, 2**63], [8, 4], [0, len(body) + 1], [-4, 4], []]
            )
        case 5:
            del table[name]
        case 6:
            table[name] = odd(draw)
        case 7:
            table[name]["shape"] = table[name]["shape"][::-1] + [1]
        case 8:  # two tensors in one place
            other = draw.choice([n for n in table if n != "__metadata__"])
            table[name]["data_offsets"] = table[other]["data_offsets"]
        case 9:  # a gap before a tensor and all that come after it
            start = table[name]["data_offsets"][0]
            for facts in table.values():
                if facts.get("data_offsets", [-1])[0] >= start:
                    facts["data_offsets"] = [at + 8 for at in facts["data_offsets"]]
            body = body[:start] + draw.randbytes(8) + body[start:]
        case 10:  # a name twice
            twice = draw.choice([json.dumps(table[name]), json.dumps(next(iter(table.values()))), "null"])
            text = json.dumps(table)[:-1] + f", {json.dumps(name)}: {twice}}}"
            file.write_bytes(struct.pack("<Q", len(text)) + text.encode() + body)
            return
    new = json.dumps(table).encode(errors="surrogatepass")
    file.write_bytes(struct.pack("<Q", len(new)) + new + body)


def manifest(path: Path, draw: random.Random) -> None:
    file = path / "manifest.json"
    facts = json.loads(file.read_text())
    match draw.randrange(5):
        case 0:
            facts[draw.choice([*facts, "extra"])] = odd(draw)
        case 1:
            facts[draw.choice([*facts])][draw.choice(["size", "sha256", "extra"])] = odd(draw)
        case 2:
            facts = dict(reversed(facts.items()))
        case 3:
            facts[draw.choice([*facts])]["size"] += draw.choice([-1, 0.0, 2**70])
        case 4:
            file.write_text(json.dumps(facts))
            return
    try:
        file.write_text(json_text(facts))
    except ValueError:
        file.write_text(json.dumps(facts))


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    flip,
    truncate,
    lengthen,
    exchange,
    state,
    header,
    manifest,
)


@pytest.fixture
def no_hang() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError("a checkpoint hangs its reader")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_damaged_checkpoints_are_refused(whole: Path, tmp_path: Path, no_hang: None) -> None:
    expected = load(whole)
    original = {name: (whole / name).read_bytes() for name in FILES}
    path = tmp_path / "step-00000007"
    refused = accepted = 0
    for number in range(COUNT):
        draw = random.Random(number)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, content in original.items():
            (path / name).write_bytes(content)
        mutate = draw.choice(MUTATIONS)
        mutate(path, draw)
        changed = {
            p.name for p in path.iterdir() if not p.is_file() or p.read_bytes() != original.get(p.name)
        }
        changed |= {name for name in FILES if not (path / name).exists()}
        remade = draw.random() < 0.5 and all((path / name).is_file() for name in FILES[:3])
        if remade and mutate is not manifest:
            shutil.rmtree(path / "manifest.json", ignore_errors=True) if (
                path / "manifest.json"
            ).is_dir() else None
            (path / "manifest.json").unlink(missing_ok=True)
            for extra in {p.name for p in path.iterdir()} - {*FILES}:
                shutil.rmtree(path / extra) if (path / extra).is_dir() else (path / extra).unlink()
            remake_manifest(path)
            changed -= {"manifest.json"}
        if not changed:
            continue
        try:
            config, facts, leaves = load(path)
        except InputError as error:
            message = str(error)
            assert "\n" not in message, (number, mutate)
            assert str(path) in message, (number, mutate)
            refused += 1
            continue
        # A damaged checkpoint loads only if its hashes were computed again and it is still a checkpoint of a model:
        # names, shapes and types are those of its config.
        assert remade, (number, mutate)
        assert mutate is not manifest, (number, mutate)
        assert facts["iteration"] == 7, (number, mutate)
        # A run that resumes from it can save the progress that it read.
        json_text(asdict(read_progress(facts)))
        if (config.model, config.param_dtype) == (CONFIG.model, CONFIG.param_dtype):
            assert leaves == expected[2], (number, mutate)
        accepted += 1
    assert refused > 1000
    assert refused + accepted > 2000
