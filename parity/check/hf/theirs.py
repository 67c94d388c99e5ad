"""What transformers computes."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from lm.budgets import Dtype
from parity.check.hf.answer import KEPT, Numbers, Questions, Texts
from tokenizer.errors import InputError

NAME = "transformers"


def import_transformers() -> Any:
    """Import the library, which then neither asks the network nor draws progress bars.

    Raises:
        InputError: it is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"lm check --hf needs transformers ({error}): install it with pip install 'twinlm[hf]'"
        ) from None
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


def load_model(folder: Path, dtype: Dtype) -> Any:
    """Load a folder's model with weights of this type.

    Raises:
        InputError: transformers is not installed, or cannot load the model.
    """
    import torch

    transformers = import_transformers()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{folder}: transformers {transformers.__version__} cannot load it ({reason}); "
            "save it again with save_pretrained"
        ) from error
    return model.eval()


def compute_numbers(model: Any, dtype: Dtype, ids: np.ndarray) -> Numbers:
    """Return the logits and hidden states of some texts."""
    import torch

    with torch.no_grad():
        out = model(torch.tensor(ids), output_hidden_states=True, use_cache=False)
    states = [x.float().numpy() for x in out.hidden_states]
    return Numbers(NAME, dtype, out.logits[:, -KEPT:].float().numpy(), states)


def write_texts(model: Any, questions: Questions) -> Texts:
    """Continue each prompt by its likeliest tokens, without the end tokens and penalties of the folder's settings."""
    import torch

    transformers = import_transformers()
    model.generation_config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=questions.new_tokens,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    continuations, logits = [], []
    with torch.no_grad():
        for prompt in questions.prompts:
            ids = torch.tensor([prompt])
            out = model.generate(ids, attention_mask=torch.ones_like(ids))
            continuations.append(out.sequences[0, len(prompt) :].tolist())
            logits.append(torch.cat(out.logits).float().numpy())
    return Texts(NAME, continuations, logits)
