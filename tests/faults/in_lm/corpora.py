"""Faults in lm/corpora: the built-in pair tasks."""

from typing import Any

from tests.faults.fault import PAIRS, fault, inside


@fault("pairs that are held out are trained on", "lm.corpora.pair_tasks.write_pairs", PAIRS)
def _(original: Any) -> Any:
    """Leave no pair out of the pairs to train on; write the held-out pairs as before."""
    to_train = inside("lm.corpora.pair_tasks.is_held_out", lambda _: lambda *pair: False, original)

    def broken(path: Any, task: Any, num_pairs: int, seed: int, held_out: bool, word_lengths: Any) -> None:
        write = original if held_out else to_train
        write(path, task, num_pairs, seed, held_out, word_lengths)

    return broken
