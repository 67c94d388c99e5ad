"""The command `lm score`."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro import MISSING
from tyro.conf import Positional

from lm.cli.settings import read_text
from lm.cli.trained import Trained

if TYPE_CHECKING:
    from lm.text.score import TextScore

# The smallest probability of a shade, and its background colour on an ANSI terminal: from none to red.
_SHADES = ((0.5, None), (0.1, 230), (0.01, 221), (0.001, 208), (0.0, 196))


@dataclass(frozen=True)
class Score(Trained):
    """Show how likely a model finds a text, token by token.

    Surprising tokens are coloured. The sums follow: nats, perplexity, bits per byte.
    """

    text: Positional[str] = MISSING
    """Text to score, or the name of a text file or a pipe, or - for standard input."""
    ids: bool = False
    """Read the text as token ids, such as 1 2 3, and print token ids. No tokenizer is needed."""
    stride: int | None = None
    """Tokens between the starts of windows, for a text longer than the context. If not given: half the context."""
    exact: bool = False
    """Compute the bits that lm generate --exact computes for these tokens. Reading the tokens takes as long as
    writing them."""
    json: bool = False
    """Print JSON: the sums, and each token with its nats."""

    def run(self) -> None:
        from lm.run.loading import load_ends, load_tokenizer
        from lm.text.exact import make_exact
        from lm.text.ids import read_ids
        from lm.text.score import score_text

        text = read_text(self.text) if self.text == "-" or _can_be_read(self.text) else self.text
        tokenizer = None if self.ids else load_tokenizer(self.path, self.tokenizer)
        token_ids = read_ids(text) if self.ids else None
        ends = load_ends(self.path, tokenizer)
        config, backend, state = self.load()
        score = score_text(
            make_exact(backend, config).logits if self.exact else backend.make_logits(config),
            state,
            config,
            tokenizer,
            text if token_ids is None else token_ids,
            self.stride,
            ends,
        )
        if self.json:
            print(json.dumps(_facts(score), ensure_ascii=False, indent=2, allow_nan=False))
        else:
            print(_coloured(score))
            print(_summary(score))


def _can_be_read(text: str) -> bool:
    """Return whether the text is the name of a file or a pipe."""
    try:
        return Path(text).exists() and not Path(text).is_dir()
    except (OSError, ValueError):  # longer than a file name can be, or with a zero byte
        return False


def _facts(score: "TextScore") -> dict[str, object]:
    texts = [{"text": token.decode(errors="backslashreplace")} for token in score.tokens]
    texts = texts or [{} for _ in score.token_ids]
    return {
        "nats": score.total_nats,
        "predicted_tokens": score.num_predicted,
        "predicted_bytes": score.num_bytes,
        "perplexity": score.perplexity if math.isfinite(score.perplexity) else None,
        "bits_per_byte": score.bits_per_byte,
        "stride": score.stride,
        "tokens": [
            {"id": i, **text, "nats": nats}
            for i, text, nats in zip(score.token_ids, texts, score.nats, strict=True)
        ],
    }


def _coloured(score: "TextScore") -> str:
    """Return the text for a terminal, with each token on the background of its probability and all line ends."""
    parts = []
    for token, nats in zip(_shown(score), score.nats, strict=True):
        probability = 1.0 if nats is None else math.exp(-nats)
        shade = next(shade for least, shade in _SHADES if probability >= least)
        parts.append(_shaded(token, shade) + ("\n" if token.endswith("⏎") else " " * (not score.tokens)))
    return "".join(parts)


def _shown(score: "TextScore") -> list[str]:
    """Return how each token is printed: as text on one line, or as its id if its text is not known."""
    from tokenizer.inspect import printable

    return [*map(printable, score.tokens)] or [*map(str, score.token_ids)]


def _shaded(text: str, shade: int | None) -> str:
    return text if shade is None else f"\033[30;48;5;{shade}m{text}\033[0m"


def _summary(score: "TextScore") -> str:
    known = [(nats, token) for nats, token in zip(score.nats, _shown(score), strict=True) if nats is not None]
    most = sorted(known, key=lambda pair: -pair[0])[:5]
    surprising = ", ".join(f"{token!r} {nats:.2f}" for nats, token in most)
    num_bytes = "" if score.num_bytes is None else f", {score.num_bytes:,} bytes"
    bits = "" if score.bits_per_byte is None else f"bits per byte   {score.bits_per_byte:.4f}\n"
    legend = " ".join(_shaded(f"{least:g}" if least else "less", shade) for least, shade in _SHADES)
    return (
        f"probability     at least {legend}\n"
        f"nats            {score.total_nats:.4f} in {score.num_predicted:,} tokens{num_bytes}\n"
        f"perplexity      {score.perplexity:.3f}\n"
        f"{bits}"
        f"most surprising {surprising}"
    )
