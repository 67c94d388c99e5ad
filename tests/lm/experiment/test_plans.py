"""Plans of experiments: what a change of the baseline keeps, and which batch sizes are compared."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lm.cli.commands import parse
from lm.config import load_config
from lm.experiment import CONFIG, SCALING_CONFIG, ablations, batches, recipes
from lm.experiment.runs import Plan, Runs, apply_changes
from lm.init import parameter_shapes
from lm.run.inputs import Inputs


def plan(*flags: object) -> Plan:
    """The plan that `lm experiment` makes of flags."""
    words = [str(flag) for flag in ("experiment", "sgd", *flags)]
    return Plan(parse(words).settings, "torch")


def test_only_the_experiment_named_scaling_has_its_own_config() -> None:
    assert parse(["experiment", "sgd", "--out", "scaling"]).settings == load_config(CONFIG)
    assert parse(["experiment", "scaling", "--out", "sgd"]).settings == load_config(SCALING_CONFIG)


def test_a_change_of_the_baseline_keeps_tokens_and_ratios() -> None:
    base = plan("--optimizer.min-learning-rate", 1e-3).config
    assert plan().rates[0] == base.optimizer.learning_rate / 100
    config = apply_changes(base, {"batch_size": 32, "learning_rate": 0.02, "norm": "none", "seed": 5})
    assert config.batch_size * config.steps == base.batch_size * base.steps
    assert config.optimizer.warmup_steps / config.steps == base.optimizer.warmup_steps / base.steps
    assert config.optimizer.learning_rate == 0.02
    assert config.optimizer.min_learning_rate == pytest.approx(0.002)
    assert (config.model.norm, config.seed) == ("none", 5)
    silu = apply_changes(base, ablations.ABLATIONS["silu"].changes(base.model)).model
    assert silu.d_ff == 4 * base.model.d_model

    def parameters(model: Any) -> int:
        return sum(map(math.prod, parameter_shapes(model).values()))

    assert parameters(silu) == parameters(base.model)


def test_a_change_names_a_setting_of_the_model_of_the_optimizer_or_of_training() -> None:
    base = plan().config
    config = apply_changes(
        base,
        {"steps": 64, "kind": "muon", "muon_learning_rate": 0.05, "z_loss": 1e-4, "tie_embeddings": True},
    )
    assert (config.steps, config.batch_size) == (base.steps // 4, base.batch_size)
    assert config.optimizer.warmup_steps == base.optimizer.warmup_steps // 4
    assert (config.eval_interval, config.save_interval) == (32, 32)
    assert (config.optimizer.kind, config.optimizer.muon_learning_rate) == ("muon", 0.05)
    assert (config.z_loss, config.model.tie_embeddings) == (1e-4, True)
    # What is given does not follow: half the batch and a number of steps, a rate and its minimum.
    config = apply_changes(
        base, {"batch_size": 8, "steps": 512, "learning_rate": 0.02, "min_learning_rate": 0.0}
    )
    assert (config.batch_size, config.steps, config.optimizer.min_learning_rate) == (8, 512, 0.0)
    assert config.optimizer.warmup_steps == 2 * base.optimizer.warmup_steps
    assert apply_changes(base, {}) == base


def test_every_option_changes_the_baseline_and_an_option_that_it_has_is_left_out() -> None:
    base = plan().config
    options = recipes.options(base)
    assert len({apply_changes(base, changes) for changes in options.values()} | {base}) == len(options) + 1
    halved = apply_changes(base, options["half the batch"])
    assert halved.batch_size * halved.steps == base.batch_size * base.steps
    assert halved.optimizer.learning_rate == pytest.approx(base.optimizer.learning_rate / 2**0.5, rel=1e-2)
    relu2 = apply_changes(base, options["ReLU squared"]).model
    parameters = [sum(map(math.prod, parameter_shapes(model).values())) for model in (base.model, relu2)]
    assert parameters[0] == parameters[1]
    for words, left_out in (
        (("--model.tie-embeddings",), {"tied embeddings"}),
        (("--model.num-heads", 1), {"half the heads of keys and values"}),
        (("--batch-size", 3), {"half the batch"}),
        (("--batch-size", 2, "--grad-accumulation", 2), {"half the batch"}),
        (("--model.norm", "none"), {"norms after branches"}),
    ):
        assert options.keys() - recipes.options(plan(*words).config).keys() == left_out


def test_flags_of_an_option_give_its_config() -> None:
    base = plan().config
    for changes in recipes.options(base).values():
        changes = {**changes, "steps": base.steps}
        assert plan(*recipes.flags(changes).split()).config == apply_changes(base, changes)


def test_batch_sizes_end_at_the_memory_or_at_the_fewest_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches.batch_sizes(plan()) == [1, 4, 16, 64, 256, 1024]
    assert batches.batch_sizes(plan("--batch-size", 8, "--steps", 32)) == [1, 4, 8, 16, 64]
    room = batches.memory_limit(plan())
    assert room
    per_window = room["memory"] / room["batch_size"]
    monkeypatch.setattr(batches, "memory_limit", lambda plan: {"batch_size": 70})
    assert batches.batch_sizes(plan()) == [1, 4, 16, 64]
    # A window keeps at least its logits and residual streams.
    model = plan().config.model
    assert per_window > 4 * model.context_length * (model.vocab_size + 2 * model.num_layers * model.d_model)


def test_the_floor_is_that_of_the_whole_text_if_only_its_first_windows_are_evaluated(
    made_pipeline: Path, tmp_path: Path
) -> None:
    facts = json.loads((made_pipeline / "val.npy.json").read_text())
    runs = Runs(plan("--eval-windows", 2, "--model.context-length", 16), tmp_path)
    runs.inputs = Inputs((made_pipeline / "train.npy",), made_pipeline / "val.npy")
    assert runs.floor == facts["nats"] / facts["tokens"]
