"""The folder of a run: run.json (what it is), tokenizer/, metrics.jsonl and checkpoints/."""

import dataclasses
import hashlib
import itertools
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

import lm
from lm.backend import Backend, BackendName
from lm.config import TrainConfig, from_dict, kind_of
from lm.data.sidecar import token_facts
from lm.data.sources import data_fingerprint
from lm.files import read_object, write_json
from lm.init import initial_moments, optimizer_shapes, parameter_shapes
from lm.mesh import Mesh, Processes
from lm.run import checkpoint
from lm.text.ends import Ends, ends_of, read_ends
from tokenizer import Tokenizer
from tokenizer.errors import InputError

# The settings that a resumed run may change: how long and where it runs, what it shows and keeps. The rest
# decides its numbers. A schedule may only grow longer.
MAY_CHANGE = {
    "steps",
    "log_interval",
    "eval_interval",
    "eval_windows",
    "patience",
    "sample_every",
    "sample_prompt",
    "skip_nonfinite",
    "peak_flops",
    "save_interval",
    "keep_last",
    "keep_best",
    "device",
    "threads",
    "fast",
    "model.remat",
}
_HASHES = {"tokenizer_sha256": "tokenizer", "train_sha256": "training data", "val_sha256": "validation data"}


@dataclass(frozen=True)
class Inputs:
    """The files that a run reads."""

    train: tuple[Path, ...]
    """Token files to train on."""
    val: Path
    """Token file to evaluate on."""
    weights: tuple[float, ...] = ()
    """What `lm.data.windows.open_corpus` mixes by."""
    init_from: Path | None = None
    """Checkpoint whose weights the run starts from."""
    tokenizer: Path | None = None
    """Tokenizer of token files that name none."""


def tokenizer_of(tokens_path: Path) -> Tokenizer | None:
    """The tokenizer that a token file was encoded with, where its sidecar names one.

    Raises:
        InputError: the tokenizer is gone, or is another one by now.
    """
    facts = token_facts(tokens_path)
    if facts is None:
        return None
    tokenizer = Tokenizer.load(facts.tokenizer)
    if tokenizer.sha256 != facts.tokenizer_sha256:
        raise InputError(f"{facts.tokenizer}: not what {tokens_path} was encoded with; encode the text again")
    return tokenizer


def tokenizer_for(inputs: Inputs) -> Tokenizer | None:
    """The tokenizer of a run's token files: what they name, or what is named for them."""
    if inputs.tokenizer is None:
        return tokenizer_of(inputs.train[0])
    tokenizer = Tokenizer.load(inputs.tokenizer)
    refuse_other_tokenizer(inputs.train[0], tokenizer.sha256, str(inputs.tokenizer))
    return tokenizer


def describe(config: TrainConfig, inputs: Inputs) -> dict[str, Any]:
    """What identifies a run, in its checkpoints too: config and hashes of everything that it reads.

    Raises:
        InputError: the token files are of different tokenizers.
    """
    tokenizer = tokenizer_for(inputs)
    for path in (*inputs.train[1:], inputs.val):
        refuse_other_tokenizer(path, tokenizer.sha256 if tokenizer else None, str(inputs.train[0]))
    hashes = [data_fingerprint(path, config) for path in inputs.train]
    if len(hashes) > 1:
        mixture = json.dumps([hashes, inputs.weights])
        hashes = [hashlib.sha256(mixture.encode()).hexdigest()]
    return {
        "config": asdict(config),
        "seed": config.seed,
        "threads": config.threads,
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else None,
        "train_sha256": hashes[0],
        "val_sha256": data_fingerprint(inputs.val, config),
    }


def refuse_other_tokenizer(tokens_path: Path, sha256: str | None, other: str) -> None:
    """Refuse a token file that is known to be of another tokenizer than something else, known too.

    Raises:
        InputError: names both.
    """
    facts = token_facts(tokens_path)
    if facts and sha256 is not None and facts.tokenizer_sha256 != sha256:
        raise InputError(
            f"{tokens_path}: was encoded with another tokenizer than {other}; encode the text with the same"
        )


def versions(backend: Backend) -> dict[str, str]:
    """Versions of everything that a run's numbers may depend on."""
    return {
        "twinlm": lm.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **backend.versions(),
    }


def write(run: Path, facts: dict[str, Any], inputs: Inputs, floor: float | None) -> None:
    """Make the folder of a run, or bring it up to date: run.json, and a copy of the tokenizer.

    Args:
        floor: The entropy floor of the text that the run is evaluated on.
    """
    paths = {"train": [os.path.abspath(path) for path in inputs.train], "val": os.path.abspath(inputs.val)}
    # run.json first: a folder that holds it can be resumed, whatever else a crash has kept from it.
    write_json(run / "run.json", {**facts, **paths, "weights": inputs.weights, "floor": floor})
    tokenizer = tokenizer_for(inputs)
    if tokenizer:
        tokenizer.save(run / "tokenizer")


def read_facts(run: Path) -> dict[str, Any] | None:
    """run.json, where there is one.

    Raises:
        InputError: it is corrupted.
    """
    path = run / "run.json"
    if not path.exists():
        return None
    facts = read_object(path, "delete it, or use another run")
    _check_facts(facts, path)
    if not isinstance(facts.get("floor"), float | None) or not isinstance(facts.get("versions"), dict):
        raise InputError(f"{path}: floor or versions are missing or strange; it was not written by lm train")
    return facts


def load_tokenizer(path: Path, folder: Path | None = None) -> Tokenizer:
    """The tokenizer of a run; `path` is its folder or a checkpoint's.

    Args:
        folder: Where the tokenizer lies, if not in the run's folder.

    Raises:
        InputError: there is none, or not the one that the model was trained with.
    """
    tokenizer = find_tokenizer(path, folder)
    if tokenizer is None:
        named = checkpoint.read_state(checkpoint.latest(path), verify=False).get("tokenizer_sha256")
        why = "" if named else ", since the run's token files name none; train with --tokenizer"
        raise InputError(
            f"{path}: the tokenizer is missing{why}; give the folder of the model's own: --tokenizer FOLDER, or "
            "tokenizer=FOLDER in Python"
        )
    return tokenizer


def find_tokenizer(path: Path, folder: Path | None = None) -> Tokenizer | None:
    """As `load_tokenizer`, but None where there is none."""
    step_path = checkpoint.latest(path)
    sha256 = checkpoint.read_state(step_path, verify=False).get("tokenizer_sha256")
    if folder is None:
        folder = step_path.resolve().parents[1] / "tokenizer"
        # What lies beside a run that has no tokenizer is not known to be its own.
        if sha256 is None or not folder.is_dir():
            return None
    tokenizer = Tokenizer.load(folder)
    if sha256 not in (None, tokenizer.sha256):
        raise InputError(
            f"{folder}: is not the tokenizer that {step_path} was trained with, or is damaged; give the folder of "
            "that one: --tokenizer FOLDER, or tokenizer=FOLDER in Python"
        )
    return tokenizer


def load_ends(step_path: Path, tokenizer: Tokenizer | None) -> Ends:
    """The tokens that begin and end a model's texts: what its checkpoint keeps, or else its tokenizer's."""
    config, facts = load_facts(step_path, verify=False)
    return ends_of(tokenizer, read_ends(facts, config.model.vocab_size, str(step_path / "state.json")))


def ends_to_keep(
    config: TrainConfig, inputs: Inputs, tokenizer: Tokenizer | None, saved: dict[str, Any] | None
) -> Ends:
    """The ends of a run: those it had, or those of the model that it starts from, or its tokenizer's.

    Args:
        saved: The state.json that it resumes from.
    """
    known, vocab_size = Ends(), config.model.vocab_size
    if saved is not None:
        known = read_ends(saved, vocab_size, "state.json")
    elif inputs.init_from is not None:
        path = checkpoint.latest(inputs.init_from)
        known = read_ends(checkpoint.unverified_state(path), vocab_size, str(path / "state.json"))
    return ends_of(tokenizer, known)


def load_facts(step_path: Path, verify: bool = True) -> tuple[TrainConfig, dict[str, Any]]:
    """The config and state.json of a checkpoint, whose files are verified."""
    facts = checkpoint.read_state(step_path, verify)
    return _check_facts(facts, step_path / "state.json"), facts


def load_state(
    step_path: Path, config: TrainConfig, backend: Backend, with_optimizer: bool, mesh: Mesh | None = None
) -> Any:
    """The state of a checkpoint, of which every leaf fits the config."""
    dtype = config.param_dtype
    weights = {name: (shape, dtype) for name, shape in parameter_shapes(config.model).items()}
    moments = {name: (shape, dtype) for name, shape in optimizer_shapes(config.model).items()}
    return backend.load_state(
        config,
        checkpoint.read_slices(step_path / "model.safetensors", weights),
        _read_optimizer(step_path / "optimizer.safetensors", {**moments, "step": ((), "int32")})
        if with_optimizer
        else None,
        mesh,
    )


def _read_optimizer(file: Path, expected: dict[str, Any]) -> checkpoint.Leaves:
    for name, leaf in checkpoint.read_slices(file, expected):
        if name == "step" and leaf[...] < 0:
            raise InputError(f"{file}: 'step' is {leaf[...]}, no number of steps; use another checkpoint")
        yield name, leaf


def initial_state(
    config: TrainConfig, backend: Backend, inputs: Inputs, facts: dict[str, Any], mesh: Mesh | None = None
) -> Any:
    """The state before the first step: of the seed, or of another run's weights, without its optimizer.

    Raises:
        InputError: the other run's tokenizer or its model's shapes differ.
    """
    if inputs.init_from is None:
        return backend.init_state(config, config.seed, mesh)
    path = checkpoint.latest(inputs.init_from)
    _, other = load_facts(path)
    ours = facts["tokenizer_sha256"]
    if None not in (ours, other["tokenizer_sha256"]) and ours != other["tokenizer_sha256"]:
        raise InputError(
            f"{path}: was trained with another tokenizer than {inputs.train[0]}; encode the text with the run's own"
        )
    dtype = config.param_dtype
    weights = {name: (shape, dtype) for name, shape in parameter_shapes(config.model).items()}
    leaves = checkpoint.read_slices(path / "model.safetensors", weights)
    return backend.load_state(config, leaves, initial_moments(config.model, dtype), mesh)


def resume(
    run: Path,
    facts: dict[str, Any],
    config: TrainConfig,
    backend: Backend,
    mesh: Mesh | None = None,
    processes: Processes | None = None,
) -> tuple[dict[str, Any], Any] | None:
    """The state.json and state of the newest intact checkpoint of this very run; broken ones are named on stderr.

    The first process looks for damage, and each reads its share; what one cannot read, none goes on from.

    Returns:
        None where the run was ended before it saved anything.

    Raises:
        InputError: there is no such run, it differs from this command, or it has checkpoints, but none intact.
    """
    checkpoints, broken = checkpoint.all_of(run), []
    run_facts, processes = None, processes or Processes()
    try:
        run_facts = read_facts(run)
    except InputError as error:
        broken.append(error)
    if run_facts:
        refuse_changes(facts, run_facts, run / "run.json")
    for path in checkpoints:
        try:
            with processes.together():
                _, saved = load_facts(path, verify=processes.is_first)
                refuse_changes(facts, saved, path / "state.json")
                state = load_state(path, config, backend, with_optimizer=True, mesh=mesh)
        except InputError as error:
            broken.append(error)
        else:
            for reason in broken if processes.is_first else ():
                print(f"lm: warning: {reason}; going on from {path.name}", file=sys.stderr)
            return saved, state
    if broken:
        raise broken[0]
    if not run_facts and any(not p.name.startswith(".") for p in run.iterdir()):
        checkpoint.latest(run)  # says that there is none
    return None


def refuse_changes(facts: dict[str, Any], saved: dict[str, Any], where: Path) -> None:
    """Refuse to go on with a run where something that decides its numbers has changed.

    Raises:
        InputError: names the setting or the file that differs.
    """
    now, before = (flat(from_dict(TrainConfig, f["config"], str(where))) for f in (facts, saved))
    for name in now:
        if now[name] != before[name] and name not in MAY_CHANGE:
            raise InputError(
                f"{where}: {name} is {before[name]!r} in this run and {now[name]!r} in this command; "
                "give the same, or start a new run"
            )
    if now["steps"] < before["steps"]:
        raise InputError(
            f"{where}: steps is {before['steps']} in this run, and may only be raised, not be {now['steps']}"
        )
    for name, what in _HASHES.items():
        if facts[name] != saved[name]:
            raise InputError(
                f"{where}: {name} differs, so the {what} is not this run's; give the same, or start a new run"
            )


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every setting."""
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        settings |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return settings


def _check_facts(facts: Any, where: Path) -> TrainConfig:
    """The config in run.json or state.json, whose other facts are of the right types too."""
    types = {"seed": int, "backend": str, **dict.fromkeys(_HASHES, str | None)}
    for name, of_type in types.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(name, ...), of_type):
            kind = kind_of(of_type)
            raise InputError(f"{where}: {name} is missing or not {kind}; it was not written by lm train")
    if facts["backend"] not in get_args(BackendName):
        raise InputError(f"{where}: backend is {facts['backend']!r}; it was not written by lm train")
    config: TrainConfig = from_dict(TrainConfig, facts.get("config"), str(where))
    return config


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of a run that is not long.

    Raises:
        InputError: as `metric_lines` does.
    """
    return [record for record, _ in metric_lines(run)]


def metric_lines(run: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each line of metrics.jsonl, and the place in the file where it ends; none where there is no such file.

    A last line that a crash tore, or that is being written, is left out.

    Raises:
        InputError: another line is no record of a step.
    """
    path = run / "metrics.jsonl"
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(_LONGEST_LINE)
            if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                return
            try:
                record = _JSON.decode(line.decode())
            except (ValueError, RecursionError):
                record = None
            numbers = isinstance(record, dict) and [record.get(key) for key in ("step", "tokens", "seconds")]
            if (
                not numbers
                or not all(isinstance(n, int | float) and 0 <= n < 2**63 for n in numbers)
                or any(isinstance(v, int | float) and not abs(v) <= _LARGEST for v in record.values())
            ):
                raise InputError(f"{path}, line {number}: not a record of a step; delete the line")
            end += len(line)
            yield record, end


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)  # has no NaN
_LONGEST_LINE, _LARGEST = 1 << 24, sys.float_info.max
