"""Goal X6: a thousand hostile picture files. Does any crash the process, how long does a refusal take, how much memory does it need?"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.harness import Result
from tests.benchmarks.images_hostile import NUM_FILES, hostile_files
from tests.benchmarks.process import process_environment

COMMAND = "make bench ONLY=images"
MAX_SECONDS = 0.05
MAX_PEAK_BYTES = 150_000_000


def measure() -> Iterator[Result]:
    """Crashes, seconds and memory. Files that turn out to be pictures within the limits are counted apart."""
    with tempfile.TemporaryDirectory() as folder:
        groups = {}
        for number, (group, data) in enumerate(hostile_files()):
            path = Path(folder, f"{number:04d}")
            path.write_bytes(data)
            groups[path.name] = group
        command = [sys.executable, "-m", "tests.benchmarks.images_side", folder]
        ended = subprocess.run(command, env=process_environment(1), stdout=subprocess.PIPE, check=False)
    found = [tuple(json.loads(line)) for line in ended.stdout.splitlines()]
    refused = [(groups[name], took, peak) for name, took, peak, said in found if said]
    crashes = NUM_FILES - len(found)
    note = f"{len(refused)} of {NUM_FILES} refused; the others are pictures all the same. Exit code {ended.returncode}."
    yield _result("crashes", crashes, 0, f"{NUM_FILES} hostile files: 0 crashes", note)
    slowest = max(took for _, took, _ in refused)
    yield _result(
        "seconds", slowest, MAX_SECONDS, f"each refused in <= {MAX_SECONDS} s", f"{note}\n\n{_table(refused)}"
    )
    peak = max(peak for _, _, peak, _ in found)
    yield _result("peak_bytes", peak, MAX_PEAK_BYTES, f"peak memory of any file <= {MAX_PEAK_BYTES} bytes", note)


def _result(name: str, value: float, most: float, goal: str, note: str) -> Result:
    return Result(f"X6-{name}", "met" if value <= most else "missed", value, None, goal, COMMAND, note=note)


def _table(refused: list[tuple[str, float, int]]) -> str:
    lines = ["| the file | refused | median ms | slowest ms | peak MB |", "| --- | --- | --- | --- | --- |"]
    for group in dict.fromkeys(group for group, _, _ in refused):
        of_group = [(took, peak) for other, took, peak in refused if other == group]
        times = [1000 * took for took, _ in of_group]
        peak = max(peak for _, peak in of_group) / 1e6
        lines.append(f"| {group} | {len(of_group)} | {statistics.median(times):.2f} | {max(times):.1f} | {peak:.0f} |")
    return "\n".join(lines)
