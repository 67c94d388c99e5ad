"""The examples in docstrings are right."""

import doctest
import importlib
import pkgutil

import pytest

import tokenizer


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(tokenizer.__path__)])
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"tokenizer.{name}")).failed == 0
