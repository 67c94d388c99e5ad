"""Run a benchmark: `python -m bench train-step --help`."""

import importlib
import sys

from tokenizer.errors import InputError

BENCHMARKS = (
    "generate",
    "tokenizer",
    "train-step",
    "layers",
    "product",
    "data",
    "scaling",
)  # modules with a function main(arguments)


def main() -> None:
    """Run the benchmark that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        print(f"usage: python -m bench {{{','.join(BENCHMARKS)}}} [--help]", file=sys.stderr)
        sys.exit(2)
    try:
        importlib.import_module(f"bench.{sys.argv[1].replace('-', '_')}").main(sys.argv[2:])
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
