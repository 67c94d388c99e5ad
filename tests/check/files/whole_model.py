"""A Llama in a few lines of torch, right and wrong."""

import torch


def rope(x: torch.Tensor, theta: float, by_halves: bool) -> torch.Tensor:
    T, K = x.shape[-2:]
    angle = torch.arange(T)[:, None] * theta ** (-torch.arange(0, K, 2) / K)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    if by_halves:
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def run(
    token_ids: torch.Tensor, w: dict[str, torch.Tensor], by_halves: bool = False, upside_down: int = -1
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        y = x.float()
        return (y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[name].float()).to(x.dtype)

    x = w["token_embeddings.weight"][token_ids]
    states, (B, T, D) = [x], x.shape
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("layers."))
    for i in range(layers):

        def linear(x: torch.Tensor, name: str, i: int = i) -> torch.Tensor:
            return x @ w[f"layers.{i}.{name}.weight"].T

        h = norm(x, f"layers.{i}.ln1.weight")
        q, k, v = (linear(h, f"attn.{n}_proj").view(B, T, 4, D // 4).transpose(1, 2) for n in "qkv")
        q, k = rope(q, 10_000.0, by_halves), rope(k, 10_000.0, by_halves)
        heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(heads.transpose(1, 2).reshape(B, T, D), "attn.output_proj")
        h = norm(x, f"layers.{i}.ln2.weight")
        fed = linear(torch.nn.functional.silu(linear(h, "ffn.w1")) * linear(h, "ffn.w3"), "ffn.w2")
        x = x - fed if i == upside_down else x + fed
        states.append(x)
    return norm(x, "ln_final.weight") @ w["lm_head.weight"].T, states


def right(
    token_ids: torch.Tensor, weights: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return run(token_ids, weights)


def halves(token_ids: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return run(token_ids, weights, by_halves=True)[0]


def second_layer_wrong(
    token_ids: torch.Tensor, weights: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return run(token_ids, weights, upside_down=1)
