"""`lm experiment scaling --points`: fit the points of a file."""

from collections.abc import Sequence
from pathlib import Path

from lm.experiment.scaling.fit import fit_points
from lm.experiment.scaling.plot import plot
from lm.experiment.scaling.points import read_points
from lm.experiment.scaling.tables import tables
from lm.experiment.stages import claim
from lm.files import file_sha256, published, write_json
from lm.terminal import show
from tokenizer.errors import InputError


def fit_file(points: Path, floor: float | None, budgets: Sequence[float], out: Path) -> None:
    """Fit the points of a file, print the tables, and write results.json, report.md and curves.png.

    Args:
        points: JSON file in the form of the course's isoflops file.
        floor: The true E in nats per token; None if it is not known.
        budgets: FLOPs to predict.
        out: Folder to write. A folder with the results of another file or other flags is refused.

    Raises:
        InputError: the file cannot be read, or its points do not determine a law.
    """
    found = read_points(points)
    try:
        facts = fit_points(found, floor, budgets)
    except InputError as error:
        raise InputError(f"{points}: {error}") from None
    blocks = tables(facts)
    made = {
        "experiment": "scaling",
        "points_sha256": file_sha256(points),
        "floor": floor,
        "predict": facts["predict"],
    }
    with claim(out / "experiment.json", "a fit", made):
        write_json(out / "results.json", facts)
        plot(facts, out / "curves.png")
        with published(out / "report.md") as temporary:
            page = ["# A scaling law", "![Losses and fits](curves.png)", *blocks]
            temporary.write_text("\n\n".join(page) + "\n", encoding="utf-8", newline="")
    show("\n\n".join(blocks))
    show(f"\n{out}/curves.png shows the fits")
