"""``make bench``: run every ``bench_*.py`` here, or those named with ``--only``, and write what they find."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

from chatsearch.session import prepare_environment

from tests.benchmarks.harness import Result, cpu_times, steal_since, write

HERE = Path(__file__).parent


def main() -> int:
    """Returns 0 when everything ran, whatever it found."""
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", choices=names)
    arguments = parser.parse_args()
    prepare_environment()  # before any of them imports Ray, which reads it then
    # Ray's workers give way to everything else on a machine by default; what they are compared with does not.
    os.environ.setdefault("RAY_worker_niceness", "0")
    results: list[Result] = []
    before = cpu_times()
    for name in [arguments.only] if arguments.only else names:
        for result in importlib.import_module(f"tests.benchmarks.bench_{name}").measure():
            print(f"{result.id}: {result.status} {result.value}", file=sys.stderr, flush=True)
            results.append(replace(result, steal=steal_since(before)))
            write(results, arguments.output)  # at once: a benchmark that is cut off keeps what it has
            before = cpu_times()
    print(write(results, arguments.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
