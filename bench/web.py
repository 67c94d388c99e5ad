"""Write a corpus that resembles text from the web: many scripts, and a vocabulary that keeps growing."""

from pathlib import Path

import numpy as np

# First and last letter of a script, its share of the words, and the separator of its words.
_SCRIPTS = (
    ("a", "z", 0.80, " "),
    ("à", "ÿ", 0.05, " "),
    ("а", "я", 0.06, " "),
    ("一", "俿", 0.05, ""),
    ("가", "걿", 0.02, " "),
    ("ぁ", "ん", 0.02, ""),
)
_SEPARATORS = (". ", ", ", "\n", "/", "-", "_", "'s ", " (", ") ", ": ", "\n\n", " = ", "  ")


def write_web(path: Path, num_bytes: int, seed: int = 0) -> None:
    """Write text whose words follow Zipf's law: a few are very frequent, and about every hundred bytes one is new.

    The same seed gives the same text. A word is spelled from its number, so memory does not grow with the text.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    written = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        while written < num_bytes:
            count = 20_000
            numbers = rng.zipf(1.4, count) % 50_000_000
            scripts = rng.choice(len(_SCRIPTS), count, p=[share for _, _, share, _ in _SCRIPTS])
            draws = rng.random(count)
            styles = rng.random(count)
            parts = []
            for number, script, draw, style in zip(
                numbers.tolist(), scripts.tolist(), draws.tolist(), styles.tolist(), strict=True
            ):
                first, last, _, space = _SCRIPTS[script]
                word = _spell(number, ord(first), ord(last) - ord(first) + 1)
                if style < 0.15:
                    word = word.capitalize() if style > 0.03 else word.upper()
                elif style < 0.2:
                    word = str(number)
                is_last = draw < 0.15
                parts += [word, _SEPARATORS[int(draw / 0.15 * len(_SEPARATORS))] if is_last else space]
            text = "".join(parts)
            file.write(text)
            written += len(text.encode())


def _spell(number: int, first: int, base: int) -> str:
    """Return the word of a number. Small, frequent numbers get short words."""
    mixed = number * 2_654_435_761 % (1 << 32)  # so that words with similar spelling differ in frequency
    letters = []
    while True:
        mixed, digit = divmod(mixed, base)
        letters.append(chr(first + digit))
        number //= base
        if not number:
            return "".join(letters)
