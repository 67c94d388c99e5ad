"""A file of adapters for batches, checkpoints and tokenizers with one mistake, checked without a process of its own."""

from functools import partial
from types import SimpleNamespace

from parity.check.answer import Verdict
from parity.check.child import objects
from parity.check.exact import Exact, check
from parity.check.exact_data import DATA
from parity.check.exact_texts import TEXTS
from parity.check.process import Function
from parity.mistakes import MISTAKES, Mistake
from tests.check.injected.data import get_batch, load, save
from tests.check.injected.tokenizer import Tokenizer, train


def module(wrong: str) -> SimpleNamespace:
    """Return what a file of adapters would define, with one mistake."""
    return SimpleNamespace(
        run_train_bpe=lambda path, size, specials: train(path, size, specials, wrong),
        get_tokenizer=lambda vocab, merges, specials=None: Tokenizer(vocab, merges, specials, wrong),
        run_get_batch=partial(get_batch, wrong),
        run_save_checkpoint=partial(save, wrong),
        run_load_checkpoint=partial(load, wrong),
    )


def verdict(subject: Exact, wrong: str = "") -> Verdict:
    functions = vars(module(wrong))
    found = subject.find(dict.fromkeys(functions, Function(True, None)))
    assert found is not None
    return check(found, lambda handler, a: objects.HANDLERS[handler](module(wrong), **a))


def names(verdict: Verdict) -> list[str]:
    """Return the mistakes that a verdict names, in its diagnosis or in its notes."""
    if verdict.diagnosis:
        return [mistake["name"] for mistake in verdict.diagnosis.as_json()["mistakes"]]
    return [m.name for m in MISTAKES if any(note.startswith(f"{m.name}: ") for note in verdict.notes)]


def homes() -> dict[str, list[Mistake]]:
    """Return the mistakes by the name of the subject that shows them."""
    found: dict[str, list[Mistake]] = {}
    for mistake in MISTAKES:
        home = next((s.name for s in (*TEXTS, *DATA) if mistake.replaces in s.replaced), None)
        if home:
            found.setdefault("encode" if mistake.replaces == "split_specials" else home, []).append(mistake)
    return found
