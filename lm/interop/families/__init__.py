"""The families of models in Hugging Face's format that can be read and written, the simplest first."""

from lm.interop.families.gemma import GEMMA, GEMMA2, GEMMA3
from lm.interop.families.gpt2 import GPT2
from lm.interop.families.llama import LLAMA, MISTRAL, OLMO2, PHI3, QWEN2, QWEN3, SMOLLM3

_ALL = (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, OLMO2, GEMMA, GEMMA2, GEMMA3, PHI3, SMOLLM3)
FAMILIES = {family.name: family for family in _ALL}
"""Each family by its model_type."""
