"""The sides of the comparison: how each is built and set, its build, kept under ``.bench/``, and its process."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import chatsearch.index

from tests.benchmarks.index_sets import VectorSet
from tests.benchmarks.peers.engine import num_cores
from tests.benchmarks.peers.environment import ROOT, peers_python, pins
from tests.benchmarks.process import PausedProcess, last_words, process_environment

KEPT = ROOT / ".bench" / "index"
"""Builds and synthetic vectors, by what they were made from. Nothing is lost but time when it is deleted."""
_BUILD_LIMIT_S = 1500


@dataclass(frozen=True)
class Side:
    """One engine, built one way."""

    name: str
    module: str
    """A module that hands its engine to :func:`tests.benchmarks.peers.engine.main`."""
    build: Mapping[str, str | int]
    tried: Sequence[Mapping[str, int]]
    """Parameters of search, from the fastest to the most careful."""
    ours: bool = False

    @property
    def python(self) -> str:
        """Interpreter of its environment.

        Raises:
            RuntimeError: the peers' environment cannot be made.
        """
        return peers_python() if self.module.startswith("tests.benchmarks.peers.") else sys.executable

    @property
    def version(self) -> str:
        """Changes whenever what it builds might: the pins of the peers or our sources, and how it is driven."""
        told = ROOT.joinpath(*self.module.split(".")).with_suffix(".py").read_text()
        if self.ours:
            told += "".join(path.read_text() for path in sorted(Path(chatsearch.index.__path__[0]).glob("*.py")))
        return hashlib.sha256(json.dumps([told, _installed(self.module)]).encode()).hexdigest()[:16]


def _installed(module: str) -> list[str]:
    """Pins that a side depends on; plain FAISS and ours are of the environment that runs the benchmarks."""
    import faiss

    peer = module.rpartition(".")[2].removesuffix("_engine")
    return [f"faiss=={faiss.__version__}", *(pin for pin in pins() if pin.startswith(f"{peer}=="))]


@dataclass(frozen=True)
class Build:
    """A finished build."""

    folder: Path
    seconds: float
    num_bytes: int
    """On disk, with whatever of the vectors the engine keeps beside its index."""
    cached: bool
    """Made by an earlier run."""


def build(side: Side, vectors: VectorSet, kept: Path) -> Build:
    """Build a side over a set, or take the build that an earlier run made of the same.

    Raises:
        RuntimeError: the engine cannot be installed, or its build fails, with the last lines that it said.
    """
    told = json.dumps([side.module, side.version, side.build, vectors.digest, num_cores()], sort_keys=True)
    folder = kept / hashlib.sha256(told.encode()).hexdigest()[:16]
    done = folder / "done.json"
    if done.is_file():
        facts = json.loads(done.read_text())
        return Build(folder, facts["seconds"], facts["num_bytes"], cached=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    task = {"do": "build", "vectors": str(vectors.vectors), "folder": str(folder), "parameters": side.build}
    log = kept / f"{folder.name}.log"
    with log.open("w") as sink:
        process = subprocess.run(
            [side.python, "-m", side.module, json.dumps(task)],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            cwd=ROOT,
            env=process_environment(num_cores()),
            timeout=_BUILD_LIMIT_S,
            check=False,
        )
    if process.returncode:
        raise RuntimeError(f"its build ended with {process.returncode}: {last_words(log)}")
    seconds = json.loads(process.stdout.strip().splitlines()[-1])["seconds"]
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    done.write_text(json.dumps({"seconds": seconds, "num_bytes": num_bytes, "told": told}))
    return Build(folder, seconds, num_bytes, cached=False)


class Opened(PausedProcess):
    """A built side in a process of its own, which answers queries one at a time in one thread. Use as a context manager."""

    def __init__(self, side: Side, made: Build, vectors: VectorSet) -> None:
        told = {"do": "serve", "folder": str(made.folder), "queries": str(vectors.queries)}
        super().__init__(side.module, told, made.folder.with_suffix(".log"), side.python)

    def __enter__(self) -> Self:
        return self

    def answers(self, parameters: Mapping[str, int], num_queries: int) -> tuple[list[list[int]], float]:
        """The rows found for each query, and queries a second."""
        answer = self._turn(parameters, num_queries, rows=True)
        return answer["rows"], num_queries / answer["seconds"]

    def rate(self, parameters: Mapping[str, int], num_queries: int) -> float:
        """Queries a second."""
        return float(num_queries / self._turn(parameters, num_queries, rows=False)["seconds"])

    def _turn(self, parameters: Mapping[str, int], num_queries: int, *, rows: bool) -> dict[str, Any]:
        return self.ask({"parameters": parameters, "num_queries": num_queries, "rows": rows})
