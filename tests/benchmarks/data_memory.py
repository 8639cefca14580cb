"""Peak memory of the loader's processes over a corpus and over one ten times its size (goal D7).

Each picture is small and its own, so that what grows with their number shows. Memory is what the processes of the loader hold of
their own, each shared page counted by shares. Beside it stand shared memory, since Ray's object store is of a fixed size whatever
the corpus, and mapped files, whose pages the system takes back when it needs them.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
from chatsearch.corpora.base import Sample
from chatsearch.types import Document, Kind, Segment, content_hash
from PIL import Image

from tests.benchmarks.data_corpus import Corpora, records, write_shards
from tests.benchmarks.data_process import Reader
from tests.benchmarks.harness import Result

NUM_DOCUMENTS = 10_000
TIMES = 10
AT_MOST = 1.10
BATCH = 64
PAUSE_S = 0.5
MIB = 1 << 20
SORTS = ("Anon", "File", "Shmem")
"""As /proc/PID/smaps_rollup calls them."""


def memory(corpora: Corpora, command: str, num_documents: int = NUM_DOCUMENTS) -> Iterator[Result]:
    """As many samples are read of both: one pass over the large corpus. The small one stands before and after it."""
    sizes = {"small": num_documents, "large": TIMES * num_documents}
    for name, size in sizes.items():
        write_shards(corpora.path(name), _documents(size), per_part=5000)
    peaks: dict[str, list[float]] = {name: [] for name in sizes}
    mapped: dict[str, float] = {}
    shared = 0.0
    for name in ("small", "large", "small"):
        peak = _peak(corpora, name, sizes["large"])
        peaks[name].append(peak["Anon"])
        mapped[name] = peak["File"]
        shared = max(shared, peak["Shmem"])
    least, most = min(peaks["small"]), max(peaks["large"])
    slope = (most - least) * MIB / (sizes["large"] - sizes["small"])
    yield Result(
        "D7",
        "met" if most <= AT_MOST * least else "missed",
        most / least,
        None,
        f"peak memory flat within 10 % from {sizes['small']:,} to {sizes['large']:,} documents",
        command,
        runs=tuple(peaks["small"] + peaks["large"]),
        note=(
            f"small {', '.join(f'{peak:.0f}' for peak in peaks['small'])} MiB, large {most:.0f} MiB over driver, 2 tasks and "
            f"Ray's own processes, {slope:.0f} bytes a document; not counted: shared memory, at most {shared:.0f} MiB, and mapped "
            f"files, programs among them, {mapped['small']:.0f} and {mapped['large']:.0f} MiB"
        ),
        sides=peaks,
    )


def _documents(number: int) -> Iterator[Sample]:
    """Captioned pictures of 64 x 64; each is told from the others by bytes behind its end, which decoders skip."""
    shown = []
    captions = []
    for sample, _ in zip(records(), range(500), strict=False):
        (data,) = sample.images.values()
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64)).save(buffer, "JPEG")
        shown.append(buffer.getvalue())
        captions.append(tuple(Segment(s.text) for s in sample.document.segments if s.text))
    for n in range(number):
        data = shown[n % len(shown)] + n.to_bytes(8, "little")
        name = content_hash(data)
        segments = (Segment(image=name), *captions[n % len(captions)])
        yield Sample(Document(f"small/{n}", Kind.CAPTION, segments, "benchmark", "train"), {name: data})


def _peak(corpora: Corpora, name: str, num_samples: int) -> dict[str, float]:
    """Most memory of each sort at any moment of a pass, in MiB."""
    settings = {
        "shards": corpora.path(name),
        "tokenizer": corpora.tokenizer,
        "batch_size": BATCH,
        "num_workers": 2,
        "pictures": True,
    }
    seen: list[dict[str, float]] = []
    done = threading.Event()
    with Reader("tests.benchmarks.data_ours", settings, corpora.folder / f"memory-{name}.log") as reader:

        def watch() -> None:
            while not done.wait(PAUSE_S):
                seen.append(_memory(reader.tree()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            reader.rate(num_samples)
        finally:
            done.set()
            watcher.join()
    return {sort: max(memory[sort] for memory in seen) for sort in SORTS}


def _memory(processes: list[psutil.Process]) -> dict[str, float]:
    """MiB of all processes, each shared page counted by shares: own, of mapped files, and shared."""
    total = dict.fromkeys(SORTS, 0.0)
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        except (OSError, ProcessLookupError):
            continue  # it has ended
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        for sort in SORTS:
            total[sort] += sizes[f"Pss_{sort}"] / 1024
    return total
