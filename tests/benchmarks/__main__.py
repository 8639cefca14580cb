"""``make bench``: run every ``bench_*.py`` here, or what ``--only`` names, and write what they find.

``--only index`` is a benchmark; ``--only index.peers`` its part ``index_peers.py`` alone.
"""

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


def parts(names: list[str]) -> dict[str, str]:
    """Modules of the parts of benchmarks, by ``benchmark.part``: the files that measure something themselves."""
    files = [(name, path) for name in names for path in sorted(HERE.glob(f"{name}_*.py"))]
    return {
        f"{name}.{path.stem.removeprefix(f'{name}_')}": path.stem
        for name, path in files
        if "\ndef measure(" in path.read_text()
    }


def main() -> int:
    """Returns 0 when everything ran, whatever it found."""
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    modules = {**{name: f"bench_{name}" for name in names}, **parts(names)}
    parser.add_argument("--only", choices=modules)
    arguments = parser.parse_args()
    prepare_environment()  # before any of them imports Ray, which reads it then
    # Ray's workers give way to everything else on a machine by default; what they are compared with does not.
    os.environ.setdefault("RAY_worker_niceness", "0")
    results: list[Result] = []
    before = cpu_times()
    for name in [arguments.only] if arguments.only else names:
        for result in importlib.import_module(f"tests.benchmarks.{modules[name]}").measure():
            print(f"{result.id}: {result.status} {result.value}", file=sys.stderr, flush=True)
            results.append(replace(result, steal=steal_since(before)))
            write(results, arguments.output)  # at once: a benchmark that is cut off keeps what it has
            before = cpu_times()
    print(write(results, arguments.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
