"""Import and export give back a folder's tensors byte for byte, and a config that means the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm.backend import load
from lm.interop.tensors import find_tensors
from lm.run import checkpoint
from lm.run.loading import load_state
from tests.lm.conftest import lm
from tests.lm.interop.families.conftest import Imported
from tests.lm.interop.families.models import CASES, IDS, in_dtype
from tests.lm.interop.families.numbers import OURS
from tests.lm.interop.models import logits_of, make_run

DTYPES = ("float32", "bfloat16", "float16")
SAVED = [(case, DTYPES[i % 3], i % 2 == 0) for i, case in enumerate(CASES)]
SAVED += [("gpt2", dtype, sharded) for dtype in DTYPES for sharded in (True, False)]


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return type, shape and bytes of each tensor of a folder, in one file or in shards."""
    found = {}
    for name, tensor in find_tensors(folder).items():
        itemsize = {"F32": 4, "F16": 2, "BF16": 2}[tensor.dtype]
        size = int(np.prod(tensor.shape)) * itemsize
        with tensor.file.open("rb") as file:
            file.seek(tensor.offset)
            found[name] = tensor.dtype, tensor.shape, file.read(size)
    return found


def read_config(transformers: Any, folder: Path) -> dict[str, Any]:
    """Return what transformers reads from a folder's config.json, without the folder's name."""
    return transformers.AutoConfig.from_pretrained(folder).to_dict() | {"_name_or_path": None}


@pytest.mark.parametrize(("case", "dtype", "sharded"), SAVED)
def test_import_and_export_change_no_byte(
    imported: Callable[..., Imported],
    transformers: Any,
    tmp_path: Path,
    case: str,
    dtype: Any,
    sharded: bool,
) -> None:
    model = in_dtype(transformers, imported(case).model, dtype)
    model.save_pretrained(tmp_path / "hf", max_shard_size="4KB" if sharded else "1GB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists() == sharded
    assert lm("import", "--format", "hf", tmp_path / "hf", tmp_path / "run") == 0
    assert lm("export", "--format", "hf", tmp_path / "run", tmp_path / "back") == 0
    assert tensors(tmp_path / "back") == tensors(tmp_path / "hf")
    assert read_config(transformers, tmp_path / "back") == read_config(transformers, tmp_path / "hf")
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    assert loaded.dtype == model.dtype
    np.testing.assert_array_equal(logits_of(loaded.float(), IDS), logits_of(model.float(), IDS))


@pytest.mark.parametrize("case", CASES)
def test_either_backend_gives_the_weights_back(imported: Callable[..., Imported], case: str) -> None:
    model = imported(case)
    for backend in OURS:
        module = load(backend, model.config)
        state = load_state(checkpoint.latest(model.run), model.config, module, with_optimizer=False)
        np.testing.assert_equal(dict(module.read_weights(state)), model.weights)


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_not_imported_is_written_as_any_family_that_can_express_it(
    imported: Callable[..., Imported], transformers: Any, tmp_path: Path, case: str
) -> None:
    model, family = imported(case), case.split()[0]
    make_run(tmp_path / "run", model.config.model, None, model.weights)
    assert lm("export", "--format", "hf", tmp_path / "run", tmp_path / "hf", "--family", family) == 0
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    assert loaded.config.model_type == family
    np.testing.assert_array_equal(logits_of(loaded, IDS), logits_of(model.model, IDS))
