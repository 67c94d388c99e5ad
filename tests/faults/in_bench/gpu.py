"""Faults in bench/gpu."""

from typing import Any

from tests.faults.fault import fault

PROGRAM = "tests/test_gpu_program.py::test_"


@fault(
    "results of another device are continued",
    "bench.gpu.runner.open_results",
    PROGRAM + "results_of_another_device_are_refused",
)
def _(open_results: Any) -> Any:
    def broken(file: Any, settings: Any) -> Any:
        from lm.files import read_object

        return read_object(file, "") if file.exists() else open_results(file, settings)

    return broken


@fault(
    "a part that fails ends the run",
    "bench.gpu.runner.run",
    PROGRAM + "a_part_that_crashes_or_hangs_is_recorded_and_the_next_one_runs",
)
def _(run: Any) -> Any:
    def broken(parts: Any, settings: Any, seconds: float, out: Any, command: Any = None) -> Any:
        begun: dict[str, Any] = {}
        for name, part in parts.items():
            begun[name] = part
            results = run(begun, settings, seconds, out, command)
            if results["parts"][name]["status"] in ("failed", "crashed", "out of time"):
                break
        return results

    return broken


@fault("a run repeats what has passed", "bench.gpu.runner.run", PROGRAM + "results_are_continued")
def _(run: Any) -> Any:
    def broken(parts: Any, settings: Any, seconds: float, out: Any, *command: Any) -> Any:
        (out / "results.json").unlink(missing_ok=True)
        return run(parts, settings, seconds, out, *command)

    return broken


@fault(
    "the parts are sorted by name", "bench.gpu.parts.make_parts", PROGRAM + "the_parts_are_listed_by_worth"
)
def _(make_parts: Any) -> Any:
    return lambda settings: sorted(make_parts(settings))
