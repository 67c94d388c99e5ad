"""Text <-> token ids: a byte-level BPE tokenizer in pure Python, regex and NumPy."""

from tokenizer.errors import InputError
from tokenizer.tokenizer import Tokenizer
from tokenizer.train_bpe import train_bpe

__all__ = ["InputError", "Tokenizer", "train_bpe"]
