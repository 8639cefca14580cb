"""The loader beside WebDataset and LitData, its limit, its memory as the corpus grows, and corrupt pictures in it.

``BENCH_TURN_S`` and ``BENCH_ROUNDS`` make it shorter for a trial; what then comes out is no result.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.data_corpus import Corpora, convert, make_corpora
from tests.benchmarks.data_corrupt import corrupt
from tests.benchmarks.data_memory import memory
from tests.benchmarks.data_process import Reader
from tests.benchmarks.harness import Result, Rounds, cpu_times, judge, steal_since, take_turns
from tests.benchmarks.peers.environment import peers_python

COMMAND = "make bench ONLY=data"
PEERS = "tests.benchmarks.peers"
NUM_WORKERS = 2
BATCH = 64
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
TURN_S = float(os.environ.get("BENCH_TURN_S", "6"))
WHOLE = 2 * 8 * BATCH
"""Samples of a turn come in so many: as often as our tasks hand over, so that each turn ends where it began."""


def measure() -> Iterator[Result]:
    """Goals D1, D2, D3, D7 and D8."""
    with tempfile.TemporaryDirectory() as folder:
        corpora = make_corpora(Path(folder))
        yield from _timed(lambda: photographs(corpora))
        yield from _timed(lambda: pages(corpora))
        yield from _timed(lambda: corrupt(corpora, COMMAND))
        yield from _timed(lambda: memory(corpora, COMMAND))


def _timed(part: Callable[[], Iterator[Result]]) -> Iterator[Result]:
    """Results of a part with the processor time that others took during it."""
    before = cpu_times()
    for result in part():
        yield replace(result, steal=steal_since(before))


def photographs(corpora: Corpora) -> Iterator[Result]:
    """Captioned pictures, decoded, collated and with their packed rows, into the step: D1 and D2."""
    peers, refused = _peers(corpora, "photographs", {"webdataset_reader": {"pictures": True}, "litdata_reader": {}})
    single = {"shards": corpora.path("photographs"), "batch_size": BATCH}
    with ExitStack() as stack:
        readers = {"ours": stack.enter_context(_ours(corpora, "photographs"))}
        readers |= {name: stack.enter_context(reader) for name, reader in peers.items()}
        alone, second = (
            stack.enter_context(Reader("tests.benchmarks.data_single", single, _log(corpora, f"single-{n}")))
            for n in range(2)
        )
        sides = {name: _turn(reader) for name, reader in readers.items()}
        num_alone = _calibrate(alone)

        def both() -> float:
            alone.begin(num_alone)
            second.begin(num_alone)
            return alone.end() + second.end()

        sides |= {"two threads": both, "one thread": lambda: alone.rate(num_alone)}
        rounds = take_turns(sides, ROUNDS)
        facts = {name: reader.facts for name, reader in readers.items()}
    medians = _medians(rounds, "images/s")
    for name in peers:
        note = f"{medians}; {_settings(facts)}; {_seconds(corpora)}; 224 px, PIL, batches of {BATCH} with their packed rows"
        yield judge(
            f"D1-{name}",
            rounds.ratios("ours", name),
            goal=f"images/s into the step >= 1.0x {name}",
            command=COMMAND,
            at_least=1.0,
            null=rounds.null,
            note=note,
            sides=rounds.values,
        )
    yield from _not_run("D1", refused)
    cores = os.cpu_count() or 1
    limit = statistics.median(rounds.ratios("two threads", "one thread")) / cores
    yield judge(
        "D2",
        [ratio / cores for ratio in rounds.ratios("ours", "one thread")],
        goal=f"images/s >= 0.85x of {cores} cores x one thread's (decode, resize, collate)",
        command=COMMAND,
        at_least=0.85,
        null=rounds.null,
        note=f"{medians}; two such threads at once, with no loader, reach {limit:.3f}x",
        sides=rounds.values,
    )


def pages(corpora: Corpora) -> Iterator[Result]:
    """Interleaved documents, tokenised, images placed, segmented and packed: D3."""
    peers, refused = _peers(corpora, "pages", {"webdataset_reader": {"pictures": False}})
    with ExitStack() as stack:
        readers = {"ours": stack.enter_context(_ours(corpora, "pages"))}
        readers |= {name: stack.enter_context(reader) for name, reader in peers.items()}
        rounds = take_turns({name: _turn(reader) for name, reader in readers.items()}, ROUNDS)
        facts = {name: reader.facts for name, reader in readers.items()}
    for name in peers:
        yield judge(
            "D3",
            rounds.ratios("ours", name),
            goal="interleaved documents/s >= 1.0x a hand-written WebDataset pipeline with the same segmenting",
            command=COMMAND,
            at_least=1.0,
            null=rounds.null,
            note=f"{_medians(rounds, 'documents/s')}; {_settings(facts)}; the tars hold the documents alone, no pictures",
            sides=rounds.values,
        )
    yield from _not_run("D3", refused)


def _ours(corpora: Corpora, name: str) -> Reader:
    settings = {
        "shards": corpora.path(name),
        "tokenizer": corpora.tokenizer,
        "batch_size": BATCH,
        "num_workers": NUM_WORKERS,
        "pictures": name == "photographs",
    }
    return Reader("tests.benchmarks.data_ours", settings, _log(corpora, f"ours-{name}"))


def _peers(corpora: Corpora, of: str, settings: dict[str, dict[str, Any]]) -> tuple[dict[str, Reader], dict[str, str]]:
    """Readers of the peers by name, and why others cannot run."""
    readers: dict[str, Reader] = {}
    refused: dict[str, str] = {}
    for module, own in settings.items():
        name = module.removesuffix("_reader")
        told = {"tokenizer": corpora.tokenizer, "batch_size": BATCH, "num_workers": NUM_WORKERS}
        try:
            python = peers_python()
            folder = convert(corpora, python, f"{PEERS}.{module}", of, num_workers=NUM_WORKERS, **own)
            log = _log(corpora, f"{name}-{of}")
            readers[name] = Reader(f"{PEERS}.{module}", {"folder": folder, **told, **own}, log, python)
        except (RuntimeError, OSError) as error:
            refused[name] = str(error)
    return readers, refused


def _log(corpora: Corpora, name: str) -> Path:
    return corpora.folder / f"{name}.log"


def _calibrate(reader: Reader) -> int:
    """Samples of a turn. Warms it up."""
    reader.rate(WHOLE)
    rate = reader.rate(2 * WHOLE)
    return max(1, round(rate * TURN_S / WHOLE)) * WHOLE


def _turn(reader: Reader) -> Callable[[], float]:
    num_samples = _calibrate(reader)
    return lambda: reader.rate(num_samples)


def _medians(rounds: Rounds, unit: str) -> str:
    return ", ".join(f"{name} {statistics.median(values):.0f} {unit}" for name, values in rounds.values.items())


def _settings(facts: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{name}{' ' + told['version'] if 'version' in told else ''}: {told['settings']}"
        for name, told in facts.items()
    )


def _seconds(corpora: Corpora) -> str:
    return "made in " + ", ".join(f"{name} {taken:.1f} s" for name, taken in corpora.seconds.items())


def _not_run(id: str, refused: dict[str, str]) -> Iterator[Result]:
    for name, reason in refused.items():
        print(f"{name} cannot run here: {reason}", file=sys.stderr)
        yield Result(f"{id}-{name}", "not_run", None, None, f"{name} cannot run here", COMMAND, note=reason)
