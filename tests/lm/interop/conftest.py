"""transformers, and a Llama that it saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lm.interop.models import llama


@pytest.fixture(scope="package")
def transformers() -> Iterator[Any]:
    """The library, which must not use the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import transformers

        logging: Any = transformers.utils.logging
        logging.disable_progress_bar()
        yield transformers


@pytest.fixture(scope="package")
def saved(tmp_path_factory: pytest.TempPathFactory, transformers: Any) -> Path:
    """A sharded Llama. Tests must not change it."""
    folder = tmp_path_factory.mktemp("saved") / "hf"
    llama(transformers, folder, shards="4KB", num_key_value_heads=2)
    return folder
