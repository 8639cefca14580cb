"""Fault tests of many points: how many are run, and where it is noted which ones have been.

``make test`` runs ``FAULT_POINTS=3`` of each, ``make faults`` all, noted as one JSON line a point in ``FAULT_OUT`` (default
``runs/faults``): run again, it goes on where it stopped. Lines of other sources are kept and do not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def sources_digest(folders: Iterable[str]) -> str:
    """A short hash of the Python files below some folders of the repository."""
    hasher = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        hasher.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()[:16]


def run_points(name: str, full: int, sources: Iterable[str], point: Callable[[int], dict[str, Any]]) -> int:
    """Run the points 0, 1, ... that have not been run yet. Returns how many are done.

    Args:
        name: of the file of results.
        full: points of the full count.
        sources: folders whose change makes all results void.
        point: runs one; raises if it fails.
    """
    few = os.environ.get("FAULT_POINTS")
    wanted = int(few) if few else full
    if wanted < full:
        for number in range(wanted):
            point(number)
        return wanted
    out = Path(os.environ.get("FAULT_OUT") or ROOT / "runs" / "faults") / f"{name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    version = sources_digest(sources)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {line["point"] for line in lines if line["sources"] == version and line["ok"]}
    with out.open("a") as sink:
        for number in range(full):
            if number in done:
                continue
            result: dict[str, Any] = {"point": number, "sources": version, "ok": False}
            try:
                result |= point(number) | {"ok": True}
                done.add(number)
            except Exception as error:
                result["error"] = repr(error)[:500]
                raise
            finally:
                sink.write(json.dumps(result) + "\n")
                sink.flush()
    return len(done)
