"""The adapters as the course's tests call them, against torch's own layers, for either backend."""

import inspect
import io
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import adapters
from tokenizer.errors import InputError

B, T, D, H, D_FF, V, LAYERS = 3, 6, 16, 4, 24, 11, 2
THETA = 10_000.0


@pytest.fixture(params=["torch", "jax"])
def _backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_BACKEND", request.param)


both_backends = pytest.mark.usefixtures("_backend")
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
leading_and_dtypes = pytest.mark.parametrize(
    ("leading", "dtype"), [((), torch.float64), ((B,), torch.float32), ((2, B), torch.float64)]
)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """As near as the course asks for, and nearer in float64; shape and dtype are equal."""
    tolerance = 1e-12 if expected.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=tolerance, atol=tolerance)


# The references: torch's own functions, and RoPE as rotation of complex numbers.


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    angle = positions[..., None] * THETA ** (
        -torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1]
    )
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2).to(x.dtype)


def attend(x: Tensor, weights: dict[str, Tensor], positions: Tensor | None) -> Tensor:
    q, k, v = (
        F.linear(x, weights[f"{name}_proj.weight"]).unflatten(-1, (H, -1)).transpose(-2, -3) for name in "qkv"
    )
    if positions is not None:
        q, k = rotate(q, positions[..., None, :]), rotate(k, positions[..., None, :])
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(out.transpose(-2, -3).flatten(-2), weights["output_proj.weight"])


def feed_forward(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    gate, up = F.linear(x, weights["w1.weight"]), F.linear(x, weights["w3.weight"])
    return F.linear(F.silu(gate) * up, weights["w2.weight"])


def under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def block(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    normed = F.rms_norm(x, (D,), weights["ln1.weight"], 1e-5)
    x = x + attend(normed, under(weights, "attn."), torch.arange(x.shape[-2]))
    return x + feed_forward(F.rms_norm(x, (D,), weights["ln2.weight"], 1e-5), under(weights, "ffn."))


def attention_weights(dtype: torch.dtype) -> dict[str, Tensor]:
    names = ("q", "k", "v", "output")
    return {f"{name}_proj.weight": normal(D, D, dtype=dtype, seed=i) / 4 for i, name in enumerate(names)}


def block_weights(dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    attention = {f"attn.{name}": w for name, w in attention_weights(dtype).items()}
    shapes = {"ln1": (D,), "ln2": (D,), "ffn.w1": (D_FF, D), "ffn.w2": (D, D_FF), "ffn.w3": (D_FF, D)}
    return attention | {
        f"{name}.weight": normal(*shape, dtype=dtype, seed=seed + i) / 4
        for i, (name, shape) in enumerate(shapes.items())
    }


# The course's tests pass these by position and by name.
SIGNATURES = {
    "run_linear": "d_in d_out weights in_features",
    "run_embedding": "vocab_size d_model weights token_ids",
    "run_swiglu": "d_model d_ff w1_weight w2_weight w3_weight in_features",
    "run_scaled_dot_product_attention": "Q K V mask=None",
    "run_multihead_self_attention": "d_model num_heads q_proj_weight k_proj_weight v_proj_weight "
    "o_proj_weight in_features",
    "run_multihead_self_attention_with_rope": "d_model num_heads max_seq_len theta q_proj_weight "
    "k_proj_weight v_proj_weight o_proj_weight in_features token_positions=None",
    "run_rope": "d_k theta max_seq_len in_query_or_key token_positions",
    "run_transformer_block": "d_model num_heads d_ff max_seq_len theta weights in_features",
    "run_transformer_lm": "vocab_size context_length d_model num_layers num_heads d_ff rope_theta weights "
    "in_indices",
    "run_rmsnorm": "d_model eps weights in_features",
    "run_silu": "in_features",
    "run_get_batch": "dataset batch_size context_length device",
    "run_softmax": "in_features dim",
    "run_cross_entropy": "inputs targets",
    "run_gradient_clipping": "parameters max_l2_norm",
    "get_adamw_cls": "",
    "run_get_lr_cosine_schedule": "it max_learning_rate min_learning_rate warmup_iters cosine_cycle_iters",
    "run_save_checkpoint": "model optimizer iteration out",
    "run_load_checkpoint": "src model optimizer",
    "get_tokenizer": "vocab merges special_tokens=None",
    "run_train_bpe": "input_path vocab_size special_tokens **kwargs",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_courses(name: str) -> None:
    parameters = inspect.signature(getattr(adapters, name)).parameters.values()
    assert " ".join(str(p.replace(annotation=p.empty)) for p in parameters) == SIGNATURES[name]


@both_backends
@leading_and_dtypes
def test_layers_take_any_leading_dimensions(dtype: torch.dtype, leading: tuple[int, ...]) -> None:
    x = normal(*leading, D, dtype=dtype)
    up, gate, down = (
        normal(*s, dtype=dtype, seed=i) / 4 for i, s in enumerate([(D_FF, D), (D_FF, D), (D, D_FF)])
    )
    scale = normal(D, dtype=dtype, seed=3)
    assert_close(adapters.run_linear(d_in=D, d_out=D_FF, weights=up, in_features=x), F.linear(x, up))
    assert_close(
        adapters.run_swiglu(
            d_model=D, d_ff=D_FF, w1_weight=gate, w2_weight=down, w3_weight=up, in_features=x
        ),
        feed_forward(x, {"w1.weight": gate, "w2.weight": down, "w3.weight": up}),
    )
    assert_close(
        adapters.run_rmsnorm(d_model=D, eps=1e-3, weights=scale, in_features=x),
        F.rms_norm(x, (D,), scale, 1e-3),
    )
    assert_close(adapters.run_silu(x), F.silu(x))


@both_backends
@pytest.mark.parametrize("int_dtype", [torch.int32, torch.int64])
def test_embedding(int_dtype: torch.dtype) -> None:
    weights, ids = normal(V, D), torch.tensor([[0, V - 1, 3], [1, 1, 2]], dtype=int_dtype)
    actual = adapters.run_embedding(vocab_size=V, d_model=D, weights=weights, token_ids=ids)
    assert_close(actual, F.embedding(ids, weights))
    assert adapters.run_embedding(V, D, weights, ids[:, :0]).shape == (2, 0, D)


@both_backends
@pytest.mark.parametrize("bad", [-1, V])
def test_ids_outside_the_vocabulary_are_refused(bad: int) -> None:
    ids = torch.tensor([0, bad])
    with pytest.raises(InputError, match=f"token id {bad} is outside"):
        adapters.run_embedding(V, D, normal(V, D), ids)
    with pytest.raises(InputError, match=f"token id {bad} is outside"):
        adapters.run_cross_entropy(normal(2, V), ids)


@both_backends
@leading_and_dtypes
def test_scaled_dot_product_attention(dtype: torch.dtype, leading: tuple[int, ...]) -> None:
    Q, K = normal(*leading, T, 8, dtype=dtype), normal(*leading, T + 2, 8, dtype=dtype, seed=1)
    V_ = normal(*leading, T + 2, 5, dtype=dtype, seed=2)
    mask = normal(*leading, T, T + 2, seed=3) > 0
    mask[..., 0] = True
    run = adapters.run_scaled_dot_product_attention
    assert_close(run(Q=Q, K=K, V=V_), F.scaled_dot_product_attention(Q, K, V_))
    assert_close(run(Q=Q, K=K, V=V_, mask=mask), F.scaled_dot_product_attention(Q, K, V_, mask))


@both_backends
@leading_and_dtypes
def test_multihead_self_attention(dtype: torch.dtype, leading: tuple[int, ...]) -> None:
    x, weights = normal(*leading, T, D, dtype=dtype, seed=9), attention_weights(dtype)
    args: dict[str, Any] = {
        "d_model": D,
        "num_heads": H,
        **dict(zip((f"{n}_proj_weight" for n in "qkvo"), weights.values(), strict=True)),
        "in_features": x,
    }
    assert_close(adapters.run_multihead_self_attention(**args), attend(x, weights, None))

    args |= {"max_seq_len": 2 * T, "theta": THETA}
    run = adapters.run_multihead_self_attention_with_rope
    assert_close(run(**args), attend(x, weights, torch.arange(T)))
    shifted = torch.arange(T).expand(*leading, T) * 2
    one_for_all = torch.arange(T)[(None,) * len(leading)]  # the course's "1 seq"
    for positions in (torch.arange(T), one_for_all, shifted, shifted.int()):
        assert_close(run(**args, token_positions=positions), attend(x, weights, positions))


@both_backends
@both_dtypes
def test_rope(dtype: torch.dtype) -> None:
    x = normal(B, T, D, dtype=dtype)
    for positions in (torch.arange(T), torch.arange(T)[None], torch.arange(B * T).view(B, T)):
        actual = adapters.run_rope(
            d_k=D, theta=THETA, max_seq_len=B * T, in_query_or_key=x, token_positions=positions
        )
        assert_close(actual, rotate(x, positions))


@both_backends
@both_dtypes
def test_transformer_block(dtype: torch.dtype) -> None:
    x, weights = normal(B, T, D, dtype=dtype, seed=8), block_weights(dtype)
    actual = adapters.run_transformer_block(
        d_model=D,
        num_heads=H,
        d_ff=D_FF,
        max_seq_len=2 * T,
        theta=THETA,
        weights=weights,
        in_features=x,
    )
    assert_close(actual, block(x, weights))


@both_backends
@both_dtypes
def test_transformer_lm(dtype: torch.dtype) -> None:
    ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))
    blocks = [block_weights(dtype, seed=10 * i) for i in range(LAYERS)]
    ends = {
        "token_embeddings.weight": normal(V, D, dtype=dtype, seed=1),
        "ln_final.weight": normal(D, dtype=dtype, seed=2),
        "lm_head.weight": normal(V, D, dtype=dtype, seed=3) / 4,
    }
    weights = ends | {f"layers.{i}.{name}": w for i, layer in enumerate(blocks) for name, w in layer.items()}
    x = F.embedding(ids, ends["token_embeddings.weight"])
    for layer in blocks:
        x = block(x, layer)
    expected = F.linear(F.rms_norm(x, (D,), ends["ln_final.weight"], 1e-5), ends["lm_head.weight"])
    for context_length in (T, 2 * T):
        actual = adapters.run_transformer_lm(
            vocab_size=V,
            context_length=context_length,
            d_model=D,
            num_layers=LAYERS,
            num_heads=H,
            d_ff=D_FF,
            rope_theta=THETA,
            weights=weights,
            in_indices=ids,
        )
        assert_close(actual, expected)


@both_backends
@both_dtypes
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_softmax_and_cross_entropy(dtype: torch.dtype, shift: float) -> None:
    x = (normal(B, T, V, dtype=dtype) + shift) * 3
    for dim in (-1, 1, 0):
        assert_close(adapters.run_softmax(x, dim=dim), F.softmax(x, dim=dim))
    inputs, targets = x.flatten(0, 1), torch.arange(B * T) % V
    for ids in (targets, targets.int()):
        actual = adapters.run_cross_entropy(inputs=inputs, targets=ids)
        assert_close(actual, F.cross_entropy(inputs, targets))


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_BACKEND", "tensorflow")
    with pytest.raises(InputError, match="give torch or jax"):
        adapters.run_silu(normal(2))


def test_get_batch_draws_every_start_equally_often() -> None:
    dataset, context_length, batch_size, calls = np.arange(100), 7, 320, 100
    starts: Counter[int] = Counter()
    for _ in range(calls):
        x, y = adapters.run_get_batch(dataset, batch_size, context_length, "cpu")
        assert x.shape == y.shape == (batch_size, context_length)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x + 1, y)
        starts.update(x[:, 0].tolist())
    n = len(dataset) - context_length
    assert set(starts) == set(range(n))
    mean = calls * batch_size / n
    assert max(abs(count - mean) for count in starts.values()) < 5 * math.sqrt(mean)


def test_get_batch_repeats_only_under_the_same_seed() -> None:
    def draw() -> list[int]:
        x, _ = adapters.run_get_batch(np.arange(1000, dtype=np.uint16), 32, 5, "cpu")
        return x[:, 0].tolist()

    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert first == draw() != second


@pytest.mark.parametrize("device", ["cuda:99", "no-such-device"])
def test_get_batch_on_an_unusable_device(device: str) -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        adapters.run_get_batch(np.arange(100), 4, 7, device)


def test_get_batch_of_one_window() -> None:
    x, y = adapters.run_get_batch(np.arange(8), 2, 7, "cpu")
    assert x.tolist() == [list(range(7))] * 2
    assert y.tolist() == [list(range(1, 8))] * 2
    with pytest.raises(InputError, match="7 tokens are fewer than context_length \\+ 1 = 8"):
        adapters.run_get_batch(np.arange(7), 2, 7, "cpu")


@pytest.mark.parametrize("max_norm", [1e-2, 1e3])
def test_gradient_clipping(max_norm: float) -> None:
    def parameters() -> list[nn.Parameter]:
        ps = [nn.Parameter(normal(5, 5, seed=i)) for i in range(6)]
        ps[-1].requires_grad_(False)
        torch.cat([p.square() for p in ps]).sum().backward()
        return ps

    ours, theirs = parameters(), parameters()
    before = ours[0].grad
    adapters.run_gradient_clipping((p for p in ours), max_norm)
    nn.utils.clip_grad_norm_(theirs, max_norm)
    assert ours[0].grad is before
    assert ours[-1].grad is None
    for p, q in zip(ours[:-1], theirs[:-1], strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert_close(p.grad, q.grad)


def train(optimizer_class: Callable[..., torch.optim.Optimizer]) -> Tensor:
    p = nn.Parameter(normal(2, 3))
    optimizer = optimizer_class([p], lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    for step in range(100):
        optimizer.zero_grad()
        (p @ normal(3, seed=step)).square().sum().backward()
        optimizer.step()
    return p.detach()


def test_adamw_is_close_to_torchs() -> None:
    # As in the course's test: both round, correct the bias and decay in another order.
    torch.testing.assert_close(train(adapters.get_adamw_cls()), train(torch.optim.AdamW), rtol=0, atol=1e-5)


def test_cosine_schedule() -> None:
    rates = [
        adapters.run_get_lr_cosine_schedule(
            it=it, max_learning_rate=1.0, min_learning_rate=0.1, warmup_iters=7, cosine_cycle_iters=21
        )
        for it in range(25)
    ]
    assert rates[:8] == pytest.approx([i / 7 for i in range(8)])
    assert rates[14] == pytest.approx(0.55)
    assert rates[21:] == [0.1] * 4


class Net(nn.Module):
    """Buffers, an integer among them, beside the parameters, and one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "ours": lambda ps: adapters.get_adamw_cls()(ps, lr=1e-2, betas=(0.9, 0.95)),  # type: ignore[call-arg]
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=torch.tensor(1e-2), betas=(0.9, 0.95), amsgrad=True),
    "sgd": lambda ps: torch.optim.SGD(ps, lr=1e-2, momentum=0.9),
    "lbfgs": lambda ps: torch.optim.LBFGS(ps, history_size=3, max_iter=2),  # lists of tensors in its state
    "groups": lambda ps: torch.optim.Adafactor([{"params": [p], "lr": 1e-2 + i} for i, p in enumerate(ps)]),
}


def trained(make_optimizer: Callable[[Any], torch.optim.Optimizer]) -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    optimizer = make_optimizer(model.parameters())

    def closure() -> float:
        optimizer.zero_grad()
        loss = (model(normal(8, 4)) - normal(8, 4, seed=1)).square().mean()
        loss.backward()
        return loss.item()

    for _ in range(5):
        closure()
        optimizer.step(closure)
    return model, optimizer


def assert_same(actual: Any, expected: Any) -> None:
    """Equal down to the types of containers and numbers, and the dtypes and bits of tensors."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(actual) is type(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    else:
        assert type(actual) is type(expected)
        assert actual == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("place", ["path", "string", "memory", "file"])
def test_checkpoint_gives_back_equal_state_dicts(name: str, place: str, tmp_path: Path) -> None:
    model, optimizer = trained(OPTIMIZERS[name])
    path = tmp_path / "checkpoint.pt"
    new_model = Net()
    new_optimizer = OPTIMIZERS[name](new_model.parameters())

    if place == "memory":
        memory = io.BytesIO()
        adapters.run_save_checkpoint(model, optimizer, iteration=10, out=memory)
        memory.seek(0)
        iteration = adapters.run_load_checkpoint(src=memory, model=new_model, optimizer=new_optimizer)
    elif place == "file":
        with path.open("wb") as out:
            adapters.run_save_checkpoint(model, optimizer, iteration=10, out=out)
        with path.open("rb") as src:
            iteration = adapters.run_load_checkpoint(src=src, model=new_model, optimizer=new_optimizer)
    else:
        where = path if place == "path" else str(path)
        adapters.run_save_checkpoint(model, optimizer, iteration=10, out=where)
        iteration = adapters.run_load_checkpoint(src=where, model=new_model, optimizer=new_optimizer)

    assert iteration == 10
    assert type(iteration) is int
    assert_same(new_model.state_dict(), model.state_dict())
    assert_same(new_optimizer.state_dict(), optimizer.state_dict())


def test_a_loaded_optimizer_goes_on_as_the_saved_one() -> None:
    model, optimizer = trained(OPTIMIZERS["ours"])
    memory = io.BytesIO()
    adapters.run_save_checkpoint(model, optimizer, 5, memory)
    memory.seek(0)
    copy = Net()
    copy_optimizer = OPTIMIZERS["ours"](copy.parameters())
    adapters.run_load_checkpoint(memory, copy, copy_optimizer)
    for m, o in ((model, optimizer), (copy, copy_optimizer)):
        o.zero_grad()
        m(normal(8, 4)).sum().backward()
        o.step()
    assert_same(copy.state_dict(), model.state_dict())


def test_loading_executes_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (touched,)

    path = tmp_path / "checkpoint.pt"
    torch.save({"model": Malicious()}, path)
    model, optimizer = trained(OPTIMIZERS["sgd"])
    with pytest.raises(InputError, match="not a file that run_save_checkpoint wrote"):
        adapters.run_load_checkpoint(path, model, optimizer)
    assert not touched.exists()


def test_what_json_cannot_hold_is_refused() -> None:
    model, optimizer = trained(OPTIMIZERS["sgd"])
    optimizer.param_groups[0]["callback"] = print
    with pytest.raises(InputError, match="cannot hold <built-in function print>"):
        adapters.run_save_checkpoint(model, optimizer, 0, io.BytesIO())


def test_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("low low low lower lower widest<|endoftext|>newest newest low", encoding="utf-8")
    vocab, merges = adapters.run_train_bpe(input_path=path, vocab_size=262, special_tokens=["<|endoftext|>"])
    assert len(vocab) == 262
    assert vocab[0] == b"<|endoftext|>"
    assert merges[0] == (b"o", b"w")
    tokenizer = adapters.get_tokenizer(vocab, merges, special_tokens=["<|endoftext|>"])
    text = "the lowest<|endoftext|>"
    ids = tokenizer.encode(text)
    assert ids[-1] == 0
    assert tokenizer.decode(ids) == text
    assert list(tokenizer.encode_iterable(io.StringIO(text))) == ids
    assert adapters.get_tokenizer(vocab, merges).encode("<|endoftext|>") != [0]
