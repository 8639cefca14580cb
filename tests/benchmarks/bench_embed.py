"""Embedding: beside its encoder alone, beside clip-retrieval, against a reference loop, and what a new model costs.

``BENCH_TURN_S``, ``BENCH_ROUNDS`` and ``BENCH_PICTURES`` make it shorter for a trial; what then comes out is no result.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatsearch.index.config import EmbedConfig

from tests.benchmarks.data_process import Reader
from tests.benchmarks.embed_results import new_model, reference
from tests.benchmarks.embed_setup import Places, make_places
from tests.benchmarks.harness import Result, Rounds, cpu_times, judge, steal_since, take_turns
from tests.benchmarks.peers.environment import peers_python

COMMAND = "make bench ONLY=embed"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
TURN_S = float(os.environ.get("BENCH_TURN_S", "6"))
PICTURES = int(os.environ.get("BENCH_PICTURES", "1200"))
"""That E4 and E5 embed."""
SIDE = "tests.benchmarks.embed_side"
PEER = "tests.benchmarks.peers.clip_retrieval_loop"
TOWERS = {"small": ("scenes", 128, 2048), "large": ("photographs", 32, 256)}
"""Shards, batch size, pictures a part."""


def measure() -> Iterator[Result]:
    """Goals E1, E2, E4 and E5."""
    with tempfile.TemporaryDirectory() as folder:
        places = make_places(Path(folder))
        for tower in TOWERS:
            yield from _timed(lambda tower=tower: model_alone(places, tower))
        yield from _timed(lambda: clip_retrieval(places))
        yield from _timed(lambda: reference(places, PICTURES, COMMAND))
        yield from _timed(lambda: new_model(places, PICTURES, COMMAND))


def _timed(part: Callable[[], Iterator[Result]]) -> Iterator[Result]:
    """Results of a part with the processor time that others took during it."""
    before = cpu_times()
    for result in part():
        yield replace(result, steal=steal_since(before))


def config_of(places: Places, tower: str, output: str, **changes: Any) -> EmbedConfig:
    """One encoder thread beside one that decodes."""
    shards, batch_size, per_part = TOWERS[tower]
    return EmbedConfig(
        gallery=(places.path(shards),),
        model=places.path(tower),
        output=places.path(output),
        batch_size=batch_size,
        images_per_part=per_part,
        decode_threads=1,
    ).replace(**changes)


def _side(places: Places, side: str, config: EmbedConfig) -> Reader:
    told = {"side": side, "config": config.model_dump(mode="json")}
    return Reader(SIDE, told, places.folder / f"{Path(config.output).name}.log")


def model_alone(places: Places, tower: str) -> Iterator[Result]:
    """Pictures a second from shards to feature files over those of the encoder alone: E1."""
    unit = TOWERS[tower][2]
    with ExitStack() as stack:
        whole = stack.enter_context(_side(places, "pipeline", config_of(places, tower, f"{tower}-whole")))
        alone = stack.enter_context(_side(places, "model", config_of(places, tower, f"{tower}-alone")))
        sides = {"whole path": _turn(whole, unit), "encoder alone": _turn(alone, unit)}
        rounds = take_turns(sides, ROUNDS)
    yield judge(
        f"E1-{tower}",
        rounds.ratios("whole path", "encoder alone"),
        goal="images/s from stored pictures to feature files >= 0.95x the encoder alone on ready tensors",
        command=COMMAND,
        at_least=0.95,
        null=rounds.null,
        note=f"{_medians(rounds)}; whole path: {whole.facts['settings']}; encoder alone: {alone.facts['settings']}, the same "
        f"encoder thread; {places.path(TOWERS[tower][0]).rpartition('/')[2]}, random weights",
        sides=rounds.values,
    )


def clip_retrieval(places: Places) -> Iterator[Result]:
    """Pictures a second of the job over those of clip-retrieval's loop, all cores for each: E2."""
    try:
        python = peers_python()
    except (RuntimeError, OSError) as error:
        print(f"clip-retrieval cannot run here: {error}", file=sys.stderr)
        yield Result("E2", "not_run", None, None, "clip-retrieval cannot run here", COMMAND, note=str(error))
        return
    cores = os.cpu_count() or 1
    _, batch_size, unit = TOWERS["large"]
    with ExitStack() as stack:
        config = config_of(places, "large", "ray", num_actors=cores, images_per_part=unit // cores)
        ours = stack.enter_context(_side(places, "ray", config))
        theirs: dict[str, Reader] = {}
        for workers in sorted({1, cores}):
            told = {
                "tars": places.path("tars"),
                "model": places.path("large"),
                "output": places.path(f"peer-{workers}"),
                "batch_size": batch_size,
                "workers": workers,
                "threads": cores,
            }
            log = places.folder / f"peer-{workers}.log"
            theirs[f"clip-retrieval, {workers} workers"] = stack.enter_context(Reader(PEER, told, log, python))
        sides = {"ours": _turn(ours, unit)} | {name: _turn(reader, batch_size) for name, reader in theirs.items()}
        rounds = take_turns(sides, ROUNDS)
        facts = {name: reader.facts for name, reader in theirs.items()}
    best = max(theirs, key=lambda name: statistics.median(rounds.values[name]))
    yield judge(
        "E2",
        rounds.ratios("ours", best),
        goal="images/s >= 1.3x clip-retrieval, same tower, same pictures",
        command=COMMAND,
        at_least=1.3,
        null=rounds.null,
        note=f"{_medians(rounds)}; compared with its better setting; clip-retrieval {facts[best]['version']}, its own reader, writer and "
        f"runner from the tars, with our tower and preprocessing where it has CLIP ({facts[best]['settings']}); ours through Ray Data "
        f"from document shards ({ours.facts['settings']}), which took {places.tars_to_shards_s:.1f} s to make from the tars of "
        f"{places.num_photographs} pictures in one process",
        sides=rounds.values,
    )


def _turn(reader: Reader, unit: int) -> Callable[[], float]:
    """A turn of about ``TURN_S``, in whole units so that each turn ends where it began."""
    reader.rate(unit)
    rate = reader.rate(unit)
    num_samples = max(1, math.ceil(rate * TURN_S / unit)) * unit
    return lambda: reader.rate(num_samples)


def _medians(rounds: Rounds) -> str:
    return ", ".join(f"{name} {statistics.median(values):.0f} images/s" for name, values in rounds.values.items())
