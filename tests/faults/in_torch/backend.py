"""Faults in torch_impl/backend.py: steps, checkpoints and decoding."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tests.faults.fault import AVERAGE, BITS, DROPOUT, MASKED, NOT_FINITE, ORACLE_RUN, PREFIXED, RUN, fault


@fault("gradients of the last step stay", "torch_impl.backend.clip_gradients", RUN)
def _(clip_gradients: Any) -> Any:
    last = WeakTensorKeyDictionary()

    def broken(parameters: Iterable[Tensor], *args: Any) -> Tensor:
        gradients = {p: p.grad for p in parameters if p.grad is not None}
        for p, gradient in gradients.items():
            gradient.add_(last.get(p, 0.0))
        norm = clip_gradients(gradients, *args)
        for p, gradient in gradients.items():
            last[p] = gradient.clone()
        return norm

    return broken


@fault("each micro-batch counts as a whole batch", "torch_impl.backend.make_train_step", RUN)
def _(make_train_step: Any) -> Any:
    def broken(*args: Any) -> Any:
        from lm.data.batch import Batch

        step = make_train_step(*args)

        class MicroBatch(Batch):
            @property
            def num_targets(self) -> int:
                return self.inputs[0].size

        return lambda state, batch, lr: step(state, MicroBatch(**vars(batch)), lr)

    return broken


@fault("the loss and the gradient norm change places", "torch_impl.backend.make_train_step", ORACLE_RUN)
def _(make_train_step: Any) -> Any:
    def broken(*args: Any) -> Any:
        step = make_train_step(*args)

        def train_step(*args: Any) -> Any:
            state, metrics = step(*args)
            return state, {**metrics, "loss": metrics["grad_norm"], "grad_norm": metrics["loss"]}

        return train_step

    return broken


@fault("the learning rate stays the first one's", "torch_impl.backend.make_train_step", RUN)
def _(make_train_step: Any) -> Any:
    def broken(config: Any, *args: Any) -> Any:
        step = make_train_step(config, *args)
        return lambda state, batch, lr: step(state, batch, config.optimizer.learning_rate)

    return broken


@fault("torch's z-loss counts masked tokens", "torch_impl.backend.sum_losses", MASKED)
def _(sum_losses: Any) -> Any:
    def broken(logits: Tensor, targets: Tensor, mask: Any, z_loss: float = 0.0) -> Any:
        of_all = [sum_losses(logits, targets, None, z) for z in (z_loss, 0.0)]
        return sum_losses(logits, targets, mask) + of_all[0] - of_all[1]

    return broken


@fault("torch averages the weights before the step", "torch_impl.backend.update_average", AVERAGE)
def _(update_average: Any) -> Any:
    def broken(state: Any, config: Any) -> None:
        if state.average is not None:
            # Before the first step the averages are the weights.
            before = vars(state).get("before", state.average)
            now = {name: p.detach().clone() for name, p in state.weights.items()}
            update_average(replace(state, weights=before), config)
            state.before = now

    return broken


@fault("torch resumes without its averages", "torch_impl.state.load_state", AVERAGE)
def _(load_state: Any) -> Any:
    def broken(config: Any, weights: Any, optimizer: Any, *args: Any) -> Any:
        if optimizer is not None:
            optimizer = (leaf for leaf in optimizer if not leaf[0].startswith("average."))
        return load_state(config, weights, optimizer, *args)

    return broken


@fault("torch's averages stay in the model", "torch_impl.state.averaged", NOT_FINITE)
def _(averaged: Any) -> Any:
    def broken(state: Any) -> Any:
        for name, x in (state.average or {}).items():
            state.weights[name].detach().copy_(x)
        return contextlib.nullcontext(state)

    return broken


@fault("a micro-batch drops what the first one does", "torch_impl.backend.dropout_key", DROPOUT)
def _(dropout_key: Any) -> Any:
    return lambda config, state, first_row, rows: dropout_key(config, state, 0, rows)


@fault("gradient of the embedding by atomics", "torch_impl.sharding.same_bits", BITS)
def _(same_bits: Any) -> Any:
    @contextlib.contextmanager
    def broken() -> Iterator[None]:
        with same_bits():
            torch.set_deterministic_debug_mode("default")
            yield

    return broken


@fault("a checkpoint forgets v", "torch_impl.fast.moments", RUN)
def _(moments: Any) -> Any:
    def broken(arrays: Any, optimizer: Any) -> Iterator[tuple[str, Tensor]]:
        for name, x in moments(arrays, optimizer):
            yield name, torch.zeros_like(x) if name.startswith("v.") else x

    return broken


@fault("a checkpoint forgets the step", "torch_impl.backend.load_state", RUN)
def _(load_state: Any) -> Any:
    def broken(config: Any, weights: Any, optimizer: Any, *args: Any) -> Any:
        if optimizer is not None:
            optimizer = ((name, 0 * leaf[...] if name == "step" else leaf) for name, leaf in optimizer)
        return load_state(config, weights, optimizer, *args)

    return broken


@fault("a decoded token takes a slot of the prefix", "torch_impl.backend.make_decode_step", PREFIXED)
def _(make_decode_step: Any) -> Any:
    def broken(config: Any) -> Any:
        from torch_impl.generation import LayerCache

        step = make_decode_step(config)

        def decode_step(state: Any, cache: Any, *args: Any) -> Any:
            class WithoutPrefix(LayerCache):
                def write(self, k_BHTK: Tensor, v_BHTK: Tensor, slots_BT: Tensor) -> None:
                    super().write(k_BHTK, v_BHTK, slots_BT - cache.P)

            layers = [WithoutPrefix(layer.k_BHSK, layer.v_BHSK) for layer in cache.layers]
            logits_BV, _ = step(state, cache._replace(layers=layers), *args)
            return logits_BV, cache

        return decode_step

    return broken
