"""Text <-> token ids: a byte-level BPE tokenizer in pure Python, regex and NumPy."""

from tokenizer.errors import InputError, NotByteLevel
from tokenizer.pretokenize import END_OF_TEXT
from tokenizer.tokenizer import Tokenizer
from tokenizer.train_bpe import train_bpe

__all__ = ["END_OF_TEXT", "InputError", "NotByteLevel", "Tokenizer", "train_bpe"]
