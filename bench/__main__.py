"""Run a benchmark: `python -m bench train-step --help`."""

import importlib
import os
import sys

# Each is a module with a function `main(arguments)`.
BENCHMARKS = (
    "train-step",
    "layers",
    "product",
    "generate",
    "data",
    "documents",
    "scaling",
    "tokenizer",
    "gpu",
)


def main() -> None:
    """Run the benchmark that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        print(f"usage: python -m bench {{{','.join(BENCHMARKS)}}} [--help]", file=sys.stderr)
        sys.exit(2)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # first calls are timed, so they must compile
    importlib.import_module(f"bench.{sys.argv[1].replace('-', '_')}").main(sys.argv[2:])


if __name__ == "__main__":
    try:
        from lm.terminal import open_standard_files, run_program

        open_standard_files()
        sys.exit(run_program("bench", main))
    except KeyboardInterrupt:
        sys.exit(130)
