"""Goal T2: useful positions a second when packed, against three ways of padding.

Forward and backward of a small decoder in fp32 on two threads, through the losses that training uses, without the optimiser.
Documents: all 2,000 captions of the CC3M sample under a byte-level BPE of 8,000 tokens made from them, synthetic pages with
the shape of mmc4's (``tests/gpu/synthetic_documents.py``), and both in the paper's mixture of 4 to 1. An image block takes the
paper's 35 positions. Each of the rounds runs another cut through a layout's micro-batches: after nine, every one has run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from chatsearch.data.coin import Coin
from chatsearch.data.example import IGNORED, Example, build_example
from chatsearch.data.pack import Batch
from chatsearch.data.plan import rank_slice
from chatsearch.data.tokenizer import train_byte_bpe
from chatsearch.model.config import LanguageConfig, ObjectiveConfig, PerceiverConfig, SceneCnnConfig, SearcherConfig
from chatsearch.model.queue import Candidates, content_id
from chatsearch.model.searcher import ChatSearcher
from chatsearch.train.step import MicroBatch, Targets, losses
from chatsearch.types import Document, Kind, Segment, content_hash

from tests.benchmarks.harness import Result, judge, take_turns
from tests.benchmarks.training_layouts import LAYOUTS, LENGTH, packed, shuffled, slot_fill, useful
from tests.benchmarks.training_setup import COMMAND
from tests.gpu.synthetic_documents import CAPTIONS, PAGES, documents
from tests.sample_data import ABSENT, sample_folder

TSV = Path("formats", "cc3m", "Validation_GCC-1.1.0-Validation.first2000.tsv")
NUM_ROUNDS = 9
NUM_PAGES = 240
NUM_MIXED = 800
VOCABULARY = 8000
PER_STEP = (256, 64)
"""Captions and pages of the paper's step."""
NUM_SHARING = 8
"""Workers of the paper's run."""
PEERS = {"padded": 1.8, "grouped": 1.4, "budgeted": 1.0}
"""How much faster packed has to be; where nothing is asked, not slower."""
OBJECTIVE = ObjectiveConfig(queue_size=0)


def captions() -> list[str]:
    """Of the CC3M sample; empty where it is not there."""
    path = sample_folder() / TSV
    return [line.split("\t")[0] for line in path.read_text().splitlines()] if path.is_file() else []


def measure(num_rounds: int = NUM_ROUNDS, parts: int = NUM_ROUNDS) -> Iterator[Result]:
    """Rates by corpus and peer, and the fill of rows."""
    texts = captions()
    if not texts:
        reason = ABSENT.format(folder=sample_folder())
        yield Result("T2", "not_run", None, None, "packed against padded and length-grouped", COMMAND, note=reason)
        return
    torch.set_num_threads(2)
    torch.manual_seed(0)
    tokenizer = train_byte_bpe(texts, VOCABULARY)
    config = SearcherConfig(
        vision=SceneCnnConfig(width=16),
        language=LanguageConfig(
            vocab_size=tokenizer.text_vocab_size,
            hidden_size=256,
            intermediate_size=768,
            num_layers=4,
            num_heads=4,
            num_key_value_heads=4,
            max_positions=LENGTH,
        ),
        perceiver=PerceiverConfig(hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4),
        num_queries=32,
        retrieval_dim=128,
    )
    made = [
        build_example(
            _document(number, text),
            tokenizer,
            config.num_queries,
            max_length=LENGTH,
            answer_only=False,
            coin=Coin(0, str(number), 0),
        )
        for number, text in enumerate(texts)
    ]
    per_five = CAPTIONS + PAGES
    pages = documents(config, per_five * 7 * PER_STEP[1], LENGTH)[CAPTIONS::per_five]
    yield fill(made, pages)
    searcher = ChatSearcher(config).train()
    share = NUM_MIXED // per_five
    corpora = {
        "captions": shuffled(made),
        "pages": shuffled(pages[:NUM_PAGES]),
        "mixed": shuffled([*made[: CAPTIONS * share], *pages[:share]]),
    }
    for name, examples in corpora.items():
        yield from rates(searcher, name, examples, num_rounds, parts)


def _document(number: int, text: str) -> Document:
    picture = Segment(image=content_hash(str(number).encode()))
    return Document(str(number), Kind.CAPTION, (picture, Segment(text=text)), corpus="cc3m")


def fill(made: Sequence[Example], pages: Sequence[Example]) -> Result:
    """Filled share of the rows that steps of 256 captions and 64 pages take on one worker, and on eight."""

    def mean(num_workers: int) -> tuple[float, float]:
        """Fill, and how much more than the mean the fullest worker holds."""
        fills, excess = [], []
        for step in range(len(made) // PER_STEP[0]):
            held = [
                example
                for kind, number in zip((made, pages), PER_STEP, strict=True)
                for example in kind[step * number : (step + 1) * number]
            ]
            shares = [packed(rank_slice(held, rank, num_workers)) for rank in range(num_workers)]
            fills.append(slot_fill([batch for share in shares for batch in share]))
            sizes = [sum(map(useful, share)) for share in shares]
            excess.append(max(sizes) / statistics.mean(sizes))
        return statistics.mean(fills), statistics.mean(excess)

    (alone, _), (shared, excess) = mean(1), mean(NUM_SHARING)
    return Result(
        "T2-fill",
        "met" if alone >= 0.98 else "missed",
        alone,
        None,
        f"slot fill >= 98 % in rows of {LENGTH}, steps of {PER_STEP[0]} CC3M captions and {PER_STEP[1]} synthetic pages",
        COMMAND,
        note=(
            f"on one worker; shared by {NUM_SHARING}, each with rows of its own, {shared:.1%}, and the fullest worker holds "
            f"{excess:.2f} times the mean"
        ),
    )


def rates(
    searcher: ChatSearcher, name: str, examples: Sequence[Example], num_rounds: int, parts: int
) -> Iterator[Result]:
    """Packed against each peer; the null test runs the packed micro-batches of a round twice."""
    layouts = {layout: make(examples) for layout, make in LAYOUTS.items()}
    fills = {layout: slot_fill(batches) for layout, batches in layouts.items()}

    def side(batches: Sequence[Batch]) -> Callable[[], float]:
        cuts = iter([[micro_batch(searcher, b) for b in batches[part::parts]] for part in range(num_rounds)])
        return lambda: rate(searcher, next(cuts))

    rate(searcher, [micro_batch(searcher, batch) for batches in layouts.values() for batch in batches[:2]])
    rounds = take_turns(
        {**{layout: side(batches) for layout, batches in layouts.items()}, "again": side(layouts["packed"])}, num_rounds
    )
    null = rounds.ratios("again", "packed")
    for peer, least in PEERS.items():
        yield judge(
            f"T2-{name}-{peer}",
            rounds.ratios("packed", peer),
            goal=f"{name}: useful positions a second packed >= {least:g} x {peer}",
            command=COMMAND,
            at_least=least,
            null=null,
            note=(
                f"{len(examples)} documents, {statistics.mean(map(len, examples)):.0f} positions each; slots filled "
                f"{fills['packed']:.1%} and {fills[peer]:.1%}; medians {statistics.median(rounds.values['packed']):.0f} and "
                f"{statistics.median(rounds.values[peer]):.0f} a second"
            ),
            sides={"packed": rounds.values["packed"], peer: rounds.values[peer]},
        )


def rate(searcher: ChatSearcher, batches: Sequence[tuple[MicroBatch, Candidates, int]]) -> float:
    """Useful positions a second, forward and backward."""
    begin = time.perf_counter()
    for batch, candidates, _ in batches:
        targets = Targets(words=(batch.labels_RL != IGNORED).sum(), images=batch.image_target_I.sum())
        losses(searcher, batch, candidates, targets, OBJECTIVE)["loss"].backward()
        searcher.zero_grad()
    return sum(num for *_, num in batches) / (time.perf_counter() - begin)


def micro_batch(searcher: ChatSearcher, batch: Batch) -> tuple[MicroBatch, Candidates, int]:
    """Tensors, with random features of pictures, the batch's own pictures as candidates, and its useful positions."""
    vision = searcher.config.vision
    cls_ID = torch.randn(batch.num_images, vision.feature_dim)
    ids_I = torch.tensor([content_id(name) for name in batch.image_hashes], dtype=torch.int64)
    candidates = Candidates.only(cls_ID, ids_I)
    made = MicroBatch.of(
        batch, candidates.slots_N, cls_ID, torch.randn(batch.num_images, vision.num_tokens, vision.token_dim)
    )
    return made, candidates, useful(batch)
