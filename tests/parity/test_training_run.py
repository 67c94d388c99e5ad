"""Training runs: torch and JAX agree over 300 steps, both agree with the oracle over a few, on the same batches."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import lm.run.train
from lm.backend import BackendName, load
from lm.budgets import BUDGETS, RUN, relative_error
from lm.config import AdamWForm, ModelConfig, OptimizerConfig, TrainConfig
from lm.config.training import Documents
from lm.data.batch import Batch
from lm.data.windows import get_batch
from lm.init import initial_weights
from lm.mesh import Mesh
from lm.run import checkpoint
from lm.run.inputs import Inputs
from lm.run.loading import load_state
from lm.run.metrics import read_metrics
from lm.run.train import train
from parity import oracle

BACKENDS: tuple[BackendName, ...] = ("torch", "jax")


def token_file(folder: Path, vocab_size: int, count: int = 4000) -> Path:
    """Write tokens that depend on the token before them, so that there is something to learn."""
    rng = np.random.default_rng(0)
    likely = rng.integers(0, vocab_size, (vocab_size, 3))
    tokens = [0]
    for choice in rng.integers(0, 3, count):
        tokens.append(likely[tokens[-1], choice])
    np.save(folder / "tokens.npy", np.array(tokens, np.uint16))
    return folder / "tokens.npy"


PLAIN = ModelConfig(vocab_size=48, context_length=16, d_model=32, num_layers=2, num_heads=4, d_ff=64)
GEMMA = dataclasses.replace(
    PLAIN,
    norm_gain="one_plus_weight",
    norm_position="sandwich",
    ffn="geglu_tanh",
    attention_bias="qkv",
    tie_embeddings=True,
    num_kv_heads=2,
    d_head=6,
    qk_norm=True,
    score_dim=9.0,
    score_softcap=5.0,
    logit_softcap=10.0,
    scale_embeddings=True,
    rope_scaling="llama3",
    rope_factor=8.0,
    rope_original_context=64,
    sliding_window=5,
    layer_types=("sliding", "full"),
    sliding_rope_theta=100.0,
)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("model", "kind", "dtype"),
    [
        (PLAIN, "adamw", "float64"),
        (PLAIN, "muon", "float32"),
        (GEMMA, "adamw", "float32"),
    ],
    ids=lambda x: {PLAIN: "plain", GEMMA: "like Gemma"}.get(x, x),
)
def test_300_steps(
    model: ModelConfig,
    kind: Any,
    dtype: Literal["float64", "float32"],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Every step has the same loss, and the end the same weights and moments, up to rounding."""
    if dtype == "float32":
        request.getfixturevalue("usual_xla")
    config = TrainConfig(
        model,
        OptimizerConfig(kind=kind, learning_rate=1e-3, warmup_steps=30, muon_learning_rate=5e-3),
        steps=300,
        batch_size=4,
        compute_dtype=dtype,
        log_interval=1,
        eval_interval=300,
        save_interval=300,
    )
    tokens = token_file(tmp_path, 48)
    losses, leaves = [], []
    for name in BACKENDS:
        out = tmp_path / name
        assert train(config, name, Inputs((tokens,), tokens), out)
        losses.append(np.array([m["train_loss"] for m in read_metrics(out) if "train_loss" in m]))
        state = load_state(checkpoint.latest(out), config, load(name, config), with_optimizer=True)
        leaves.append({k: a.astype(np.float64) for k, a in load(name, config).read_weights(state)})
    assert len(losses[0]) == 300
    assert losses[0][-1] < losses[0][0] - 1
    np.testing.assert_array_less(np.abs(losses[0] - losses[1]) / losses[1], RUN[dtype])
    for leaf, array in leaves[0].items():
        assert relative_error(array, leaves[1][leaf]) <= RUN[dtype], leaf


def document_starts(inputs: np.ndarray, config: TrainConfig) -> np.ndarray | None:
    """Return where each token's document starts; None if documents are joined."""
    if config.documents == "joined":
        return None
    return np.array(
        [
            [max([0, *np.flatnonzero(row[: t + 1] == config.end_token)]) for t in range(len(row))]
            for row in inputs
        ]
    )


def oracle_run(config: TrainConfig, tokens: np.ndarray) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return losses and final weights of the oracle's training loop."""
    o, model = config.optimizer, config.model
    weights = {name: leaf[...] for name, leaf in initial_weights(model, config.seed, "float64")}
    adamw, losses = oracle.AdamW((o.beta1, o.beta2), o.eps, o.weight_decay, o.adamw), []
    muon = oracle.Muon(o.muon_momentum, o.weight_decay, o.muon_scale)
    for step in range(config.steps):
        batch = get_batch(tokens, config.seed, step, config.batch_size, model.context_length)
        starts = document_starts(batch.inputs[0], config)

        def loss(
            weights: oracle.Weights, batch: Batch = batch, starts: np.ndarray | None = starts
        ) -> np.ndarray:
            logits = oracle.transformer_lm(weights, batch.inputs[0], model, starts=starts)
            return oracle.token_cross_entropy(logits, batch.targets[0], config.z_loss).mean((-2, -1))

        losses.append(float(loss(weights)))
        gradients = oracle.gradient(loss, weights, np.ones(()))
        clipped, _ = oracle.clip_gradients(gradients, o.max_grad_norm)
        lr = oracle.cosine_schedule(
            step + 1, o.learning_rate, o.min_learning_rate, o.warmup_steps, config.steps
        )
        of_muon = {n: g for n, g in clipped.items() if o.kind == "muon" and "layers" in n and g.ndim == 2}
        weights = muon.step(weights, of_muon, lr * o.muon_learning_rate / o.learning_rate)
        weights = adamw.step(weights, {n: g for n, g in clipped.items() if n not in of_muon}, lr)
    return losses, weights


@pytest.mark.parametrize(
    ("micro_batches", "documents", "kind", "form", "z_loss"),
    [(1, "joined", "adamw", "course", 0.0), (2, "packed", "muon", "torch", 0.1)],
)
def test_the_first_steps_are_the_oracles(
    micro_batches: int, documents: Documents, kind: Any, form: AdamWForm, z_loss: float, tmp_path: Path
) -> None:
    """Loss, gradient, clipping, schedule, optimizer and decay act: rates are large, the limit low, the decay strong."""
    config = TrainConfig(
        ModelConfig(vocab_size=13, context_length=5, d_model=8, num_layers=1, num_heads=2, d_ff=12),
        OptimizerConfig(0.1, 0.02, 3, kind=kind, weight_decay=0.3, max_grad_norm=0.7, eps=1e-3, adamw=form),
        steps=6,
        batch_size=4,
        grad_accumulation=micro_batches,
        z_loss=z_loss,
        seed=3,
        documents=documents,
        end_token=1 if documents == "packed" else None,
        compute_dtype="float64",
        log_interval=1,
    )
    tokens = token_file(tmp_path, 13)
    expected_losses, expected = oracle_run(config, np.load(tokens))
    for name in BACKENDS:
        out = tmp_path / name
        assert train(config, name, Inputs((tokens,), tokens), out)
        losses = np.array([m["train_loss"] for m in read_metrics(out) if "train_loss" in m])
        assert relative_error(losses, np.array(expected_losses)) <= RUN["float64"]
        state = load_state(checkpoint.latest(out), config, load(name, config), with_optimizer=True)
        for key, array in load(name, config).read_weights(state):
            assert relative_error(array, expected[key]) <= RUN["float64"], key


def test_both_see_bitwise_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        ModelConfig(vocab_size=13, context_length=5, d_model=8, num_layers=1, num_heads=2, d_ff=12),
        steps=4,
        batch_size=4,
    )
    tokens = token_file(tmp_path, 13)
    seen: dict[str, list[tuple[bytes, bytes, float]]] = {name: [] for name in BACKENDS}
    for name in BACKENDS:
        backend = load(name, config)
        make_train_step = backend.make_train_step

        def make_recording_step(
            config: TrainConfig, mesh: Mesh | None = None, name: str = name, make: Any = make_train_step
        ) -> Any:
            step = make(config, mesh)

            def recording_step(state: Any, batch: Batch, lr: float) -> Any:
                seen[name].append((batch.inputs.tobytes(), batch.targets.tobytes(), lr))
                return step(state, batch, lr)

            return recording_step

        monkeypatch.setattr(backend, "make_train_step", make_recording_step)
        assert lm.run.train.train(config, name, Inputs((tokens,), tokens), tmp_path / name)
    assert seen["torch"] == seen["jax"]
    assert len(set(seen["torch"])) == 4


@pytest.mark.parametrize("writer", BACKENDS)
def test_checkpoints_cross_bit_by_bit(writer: BackendName, tmp_path: Path) -> None:
    """Weights, both moments and the step count keep their bits, whichever backend writes and reads them."""
    config = TrainConfig(
        ModelConfig(vocab_size=13, context_length=5, d_model=8, num_layers=2, num_heads=2, d_ff=12),
        steps=3,
        batch_size=4,
    )
    tokens = token_file(tmp_path, 13)
    assert train(config, writer, Inputs((tokens,), tokens), tmp_path / "run")
    path = checkpoint.latest(tmp_path / "run")
    for reader in BACKENDS:
        backend = load(reader, config)
        state = load_state(path, config, backend, with_optimizer=True)
        moments = dict(backend.read_optimizer(state))
        assert int(moments["step"]) == 3
        assert all(array.any() for name, array in moments.items())
        again = checkpoint.save(
            tmp_path / reader, 3, backend.read_weights(state), backend.read_optimizer(state), {}
        )
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert (again / file).read_bytes() == (path / file).read_bytes()


@pytest.mark.parametrize("writer", BACKENDS)
def test_the_other_backend_takes_the_next_step(writer: BackendName, tmp_path: Path) -> None:
    """Three steps in one backend and two in the other equal five in either: no part of the state is lost."""
    model = ModelConfig(vocab_size=13, context_length=5, d_model=8, num_layers=2, num_heads=2, d_ff=12)
    config = TrainConfig(model, OptimizerConfig(0.05, 0.01, 2), batch_size=4, compute_dtype="float64")
    tokens = np.load(token_file(tmp_path, 13))
    reader = BACKENDS[1 - BACKENDS.index(writer)]

    def steps(name: BackendName, state: Any, first: int, last: int) -> Any:
        step = load(name, config).make_train_step(config)
        for t in range(first, last):
            state, _ = step(state, get_batch(tokens, 0, t, 4, 5), 0.05)
        return state

    def leaves(name: BackendName, state: Any) -> list[Any]:
        backend = load(name, config)
        pairs = (backend.read_weights(state), backend.read_optimizer(state))
        return [[(key, array.copy()) for key, array in pair] for pair in pairs]

    alone = leaves(writer, steps(writer, load(writer, config).init_state(config, 0), 0, 5))
    half = leaves(writer, steps(writer, load(writer, config).init_state(config, 0), 0, 3))
    handed_over = leaves(reader, steps(reader, load(reader, config).load_state(config, *half), 3, 5))
    for part in (0, 1):
        expected = dict(alone[part])
        for key, array in handed_over[part]:
            assert relative_error(array, expected[key]) <= BUDGETS["float64"].model_gradient, key


def test_a_step_says_what_it_did() -> None:
    """The metrics' loss, and gradient norm before clipping, are the oracle's."""
    model = ModelConfig(vocab_size=13, context_length=5, d_model=8, num_layers=1, num_heads=2, d_ff=12)
    config = TrainConfig(model, OptimizerConfig(max_grad_norm=0.1), compute_dtype="float64")
    tokens = np.random.default_rng(0).integers(0, 13, 200)
    batch = get_batch(tokens, 0, 0, 4, 5)
    weights = {name: leaf[...] for name, leaf in initial_weights(model, 0, "float64")}

    def loss(w: oracle.Weights) -> np.ndarray:
        return oracle.cross_entropy(oracle.transformer_lm(w, batch.inputs[0], model), batch.targets[0])

    gradients = oracle.gradient(loss, weights, np.ones(()))
    norm = oracle.global_norm({name: g.ravel() for name, g in gradients.items()})
    for name in BACKENDS:
        backend = load(name, config)
        _, metrics = backend.make_train_step(config)(backend.init_state(config, 0), batch, 1e-3)
        assert bool(metrics["finite"])
        assert relative_error(np.asarray(metrics["loss"]), loss(weights)) <= BUDGETS["float64"].model_forward
        assert relative_error(np.asarray(metrics["grad_norm"]), norm) <= BUDGETS["float64"].model_gradient
    assert dataclasses.asdict(config)["optimizer"]["max_grad_norm"] < float(norm)
