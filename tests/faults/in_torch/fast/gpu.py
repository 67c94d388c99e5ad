"""Faults in what torch_impl/fast does for a GPU: copies, masks, plans, packed weights, products in bfloat16."""

from typing import Any

import torch
from torch import Tensor

from tests.faults.fault import BLOCKS, ON_GPU, ORACLE_RUN, WINDOWS, fault
from torch_impl.dtypes import at_least_float32

READS = f"{ON_GPU}::test_a_step_reads_the_gpu_once_and_is_the_step_of_the_cpu"
F = "torch_impl.fast."


@fault("the host waits for copies to a GPU", F + "transfer.send", READS)
def _(send: Any) -> Any:
    return lambda x, device: torch.as_tensor(x).to(device)


@fault("what was sent is read from the GPU", F + "transfer.on_host", READS)
def _(on_host: Any) -> Any:
    return lambda x: x.cpu()


@fault("the host knows of the first batch alone", F + "transfer.on_host", f"{BLOCKS}::test_masks_of_ranges")
def _(on_host: Any) -> Any:
    first: dict[Any, Tensor] = {}
    return lambda x: first.setdefault((x.shape, x.dtype), on_host(x))


def _same_mask(reuse_mask: Any, ignored: str) -> Any:
    """Return a `reuse_mask` that does not look at one argument."""

    def broken(make: Any) -> Any:
        kept: dict[Any, Any] = {}
        reused = reuse_mask(make)

        def taken(T: int, device: Any = None, window: int | None = None) -> Any:
            key = tuple(value for name, value in (("T", T), ("window", window)) if name != ignored)
            return kept.setdefault(key, reused(T, device, window))

        return taken

    return broken


@fault(
    "a mask serves another length",
    F + "masks.reuse_mask",
    f"{BLOCKS}::test_the_causal_mask_serves_all_sequences",
)
def _(reuse_mask: Any) -> Any:
    return _same_mask(reuse_mask, "T")


@fault("a mask serves another window", F + "masks.reuse_mask", WINDOWS)
def _(reuse_mask: Any) -> Any:
    return _same_mask(reuse_mask, "window")


@fault("a plan serves another mask", F + "attention._plans", f"{BLOCKS}::test_masks_of_ranges")
def _(plans: Any) -> Any:
    class Last(dict[Any, Any]):
        def get(self, mask: Any, default: Any = None) -> Any:
            return super().get("last", default)

        def __setitem__(self, mask: Any, plan: Any) -> None:
            super().__setitem__("last", plan)

    return Last()


@fault("packed weights are not written back", F + "packing.pack", ORACLE_RUN)
def _(pack: Any) -> Any:
    def broken(weights: Any) -> Any:
        arrays = pack(weights)
        for p in weights.values():
            p.data = p.data.clone()
        return arrays

    return broken


@fault("packed gradients lie in another order", F + "packing.Array.take_gradients", ORACLE_RUN)
def _(take_gradients: Any) -> Any:
    def broken(self: Any) -> None:
        take_gradients(self)
        if self.is_packed:
            self.whole.grad = self.whole.grad.flip(-1)

    return broken


@fault(
    "a GPU multiplies bfloat16 in float32",
    F + "blockwise.factors",
    f"{ON_GPU}::test_all_products_of_a_bfloat16_step_multiply_bfloat16",
)
def _(factors: Any) -> Any:
    return at_least_float32


@fault(
    "scores of bfloat16 are not scaled",
    F + "blockwise.scores_of",
    f"{BLOCKS}::test_a_gpu_multiplies_bfloat16",
)
def _(scores_of: Any) -> Any:
    return lambda q, keys, scale: scores_of(q, keys, 1.0)
