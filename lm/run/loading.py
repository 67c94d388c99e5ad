"""Load from a run or a checkpoint: the state, the tokenizer, and the tokens that begin and end texts."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm.backend import Backend
from lm.config import TrainConfig
from lm.init import initial_moments, optimizer_shapes, parameter_shapes
from lm.mesh import Mesh, Processes
from lm.run import checkpoint
from lm.run.facts import load_facts, read_facts, refuse_changes
from lm.run.inputs import Inputs
from lm.run.leaves import Leaves, read_leaves
from lm.text.ends import Ends, choose_ends, read_ends
from tokenizer import Tokenizer
from tokenizer.errors import InputError


def load_tokenizer(path: Path, folder: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a run; `path` is the run's folder or a checkpoint's.

    Args:
        folder: Where the tokenizer is, if it is not in the run's folder.

    Raises:
        InputError: there is no tokenizer, or it is not the one that the model was trained with.
    """
    tokenizer, facts = _find_tokenizer(path, folder)
    if tokenizer is None:
        why = ""
        if facts.get("imported_from") and not facts.get("tokenizer_sha256"):
            why = ", since the model was imported without a byte-level BPE tokenizer"
        elif not facts.get("tokenizer_sha256"):
            why = ", since the run's token files name none; train with --tokenizer"
        raise InputError(
            f"{path}: the tokenizer is missing{why}; give the folder of the model's tokenizer: --tokenizer FOLDER, or "
            "tokenizer=FOLDER in Python; or give token ids, not text: --ids"
        )
    return tokenizer


def find_tokenizer(path: Path, folder: Path | None = None) -> Tokenizer | None:
    """Like `load_tokenizer`, but return None if there is no tokenizer."""
    return _find_tokenizer(path, folder)[0]


def _find_tokenizer(path: Path, folder: Path | None) -> tuple[Tokenizer | None, dict[str, Any]]:
    """Return a run's tokenizer, or None, and the state.json of its checkpoint, which names the tokenizer's hash."""
    step_path = checkpoint.latest(path)
    facts = checkpoint.read_state(step_path, verify=False)
    sha256 = facts.get("tokenizer_sha256")
    if folder is None:
        folder = step_path.resolve().parents[1] / "tokenizer"
        # A folder beside a run that names no tokenizer may belong to something else.
        if sha256 is None or not folder.is_dir():
            return None, facts
    tokenizer = Tokenizer.load(folder)
    if sha256 not in (None, tokenizer.sha256):
        raise InputError(
            f"{folder}: is not the tokenizer that {step_path} was trained with, or is damaged; give the folder of "
            "that tokenizer: --tokenizer FOLDER, or tokenizer=FOLDER in Python"
        )
    return tokenizer, facts


def load_ends(step_path: Path, tokenizer: Tokenizer | None) -> Ends:
    """Return the tokens that begin and end a model's texts: from its checkpoint, otherwise from its tokenizer."""
    config, facts = load_facts(step_path, verify=False)
    return choose_ends(tokenizer, read_ends(facts, config.model.vocab_size, str(step_path / "state.json")))


def ends_to_keep(
    config: TrainConfig, inputs: Inputs, tokenizer: Tokenizer | None, saved: dict[str, Any] | None
) -> Ends:
    """Return the tokens that begin and end a run's texts.

    They come from the checkpoint that the run resumes from, otherwise from the model that it starts from, otherwise
    from its tokenizer.

    Args:
        saved: The state.json that the run resumes from, or None.
    """
    known, vocab_size = Ends(), config.model.vocab_size
    if saved is not None:
        known = read_ends(saved, vocab_size, "state.json")
    elif inputs.init_from is not None:
        path = checkpoint.latest(inputs.init_from)
        known = read_ends(checkpoint.peek_state(path), vocab_size, str(path / "state.json"))
    return choose_ends(tokenizer, known)


def origin_to_keep(inputs: Inputs, saved: dict[str, Any] | None) -> dict[str, Any]:
    """Return where a run's model was imported from, as a fact: from its own checkpoint, or the model it starts from.

    Args:
        saved: The state.json that the run resumes from, or None.
    """
    if saved is None and inputs.init_from is not None:
        saved = checkpoint.peek_state(checkpoint.latest(inputs.init_from))
    return {"origin": saved["origin"]} if saved and "origin" in saved else {}


def load_state(
    step_path: Path, config: TrainConfig, backend: Backend, with_optimizer: bool, mesh: Mesh | None = None
) -> Any:
    """Load the state of a checkpoint.

    Raises:
        InputError: a leaf does not fit the config.
    """
    if not with_optimizer:
        return backend.load_state(config, trained_weights(step_path, config), None, mesh)
    weights = read_leaves(step_path / "model.safetensors", _expected(parameter_shapes(config.model), config))
    moments = _read_optimizer(step_path / "optimizer.safetensors", _expected_of_optimizer(config))
    return backend.load_state(config, weights, moments, mesh)


def trained_weights(step_path: Path, config: TrainConfig) -> Leaves:
    """Yield the weights of a checkpoint that are used after training: the averages if the run has them.

    Raises:
        InputError: a leaf does not fit the config.
    """
    if config.optimizer.average_decay is None:
        expected = _expected(parameter_shapes(config.model), config)
        yield from read_leaves(step_path / "model.safetensors", expected)
    else:
        for name, leaf in read_leaves(step_path / "optimizer.safetensors", _expected_of_optimizer(config)):
            if name.startswith("average."):
                yield name.removeprefix("average."), leaf


def _expected_of_optimizer(config: TrainConfig) -> dict[str, Any]:
    shapes = optimizer_shapes(config.model, config.optimizer)
    return _expected(shapes, config) | {"step": ((), "int32")}


def _expected(shapes: dict[str, tuple[int, ...]], config: TrainConfig) -> dict[str, Any]:
    """Return the shape and type that each leaf must have."""
    return {name: (shape, config.param_dtype) for name, shape in shapes.items()}


def _read_optimizer(file: Path, expected: dict[str, Any]) -> Leaves:
    for name, leaf in read_leaves(file, expected):
        if name == "step" and leaf[...] < 0:
            raise InputError(f"{file}: 'step' is {leaf[...]}, not a number of steps; use another checkpoint")
        yield name, leaf


def initial_state(
    config: TrainConfig, backend: Backend, inputs: Inputs, facts: dict[str, Any], mesh: Mesh | None = None
) -> Any:
    """Return the state before the first step: weights from the seed or from another run, and zero moments.

    Raises:
        InputError: the other run's tokenizer, or a shape of its model, differs.
    """
    if inputs.init_from is None:
        return backend.init_state(config, config.seed, mesh)
    path = checkpoint.latest(inputs.init_from)
    their_config, other = load_facts(path)
    ours = facts["tokenizer_sha256"]
    if None not in (ours, other["tokenizer_sha256"]) and ours != other["tokenizer_sha256"]:
        raise InputError(
            f"{path}: was trained with another tokenizer than {inputs.train[0]}; encode the text with the run's own"
        )
    leaves = trained_weights(path, replace(config, optimizer=their_config.optimizer))
    return backend.load_state(
        config, leaves, initial_moments(config.model, config.param_dtype, config.optimizer), mesh
    )


def newest_state(
    run: Path,
    facts: dict[str, Any],
    config: TrainConfig,
    backend: Backend,
    mesh: Mesh | None = None,
    processes: Processes | None = None,
) -> tuple[dict[str, Any], Any] | None:
    """Return state.json and the state of a run's newest intact checkpoint. Name broken checkpoints on stderr.

    The first process verifies a checkpoint, and each process reads its share. If one process cannot read a checkpoint,
    no process resumes from it.

    Returns:
        None if the run ended before it saved anything.

    Raises:
        InputError: there is no such run, it differs from this command, or none of its checkpoints is intact.
    """
    checkpoints, broken = checkpoint.find_all(run), []
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
                print(f"lm: warning: {reason}; resuming from {path.name}", file=sys.stderr)
            return saved, state
    if broken:
        raise broken[0]
    if not run_facts and any(not p.name.startswith(".") for p in run.iterdir()):
        checkpoint.latest(run)  # raises: there is no checkpoint
    return None
