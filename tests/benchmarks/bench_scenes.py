"""The model beside the dual encoder on held-out synthetic scenes, three seeds: the quickstart's own path.

Seed 0 is the quickstart itself. What does not depend on the seed (starting weights, documents, features) is made once,
and all that is finished in ``runs/quickstart-tiny`` is found again by the next call.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from chatsearch.session import ray_session
from chatsearch.tracking.config import TrackingConfig

from jobs import evaluate
from jobs.command import Plan, execute
from jobs.recipes.places import TINY, Places
from jobs.recipes.quickstart import QuickstartConfig
from jobs.step import Step
from jobs.steps import steps
from tests.benchmarks.harness import Result

COMMAND = "make bench ONLY=scenes"
SEEDS = (0, 1, 2)
OURS, BEST_BASELINE = "ChatSearcher", "dual encoder (ti)"
DEPTHS = ("R@1", "R@5", "R@10")


def measure() -> Iterator[Result]:
    """The mean of R@1/5/10 on sub-tasks i and m, ours minus the best baseline's, whole index; the sign must hold in each seed."""
    results = []
    with ray_session():
        for seed in SEEDS:
            for step in seeded_steps(seed):
                execute(step.job, Plan.of(step.job, step.recipe, step.config), TrackingConfig(parent="bench-scenes"))
            results.append(evaluate.read_result(own_places(seed).report))
    for sub_task in ("i", "m"):
        ours = [mean_recall(result, OURS, sub_task) for result in results]
        theirs = [mean_recall(result, BEST_BASELINE, sub_task) for result in results]
        gains = tuple(round(a - b, 2) for a, b in zip(ours, theirs, strict=True))
        yield Result(
            id=f"scenes-{sub_task}",
            status="met" if min(gains) > 0 else "missed",
            value=round(statistics.mean(gains), 2),
            interval=(min(gains), max(gains)),
            goal=(
                f"{sub_task}: mean R@1/5/10 above the dual encoder (ti) in each of {len(SEEDS)} seeds; ours "
                f"{', '.join(f'{v:.1f}' for v in ours)}, theirs {', '.join(f'{v:.1f}' for v in theirs)}; interval: least and most"
            ),
            command=COMMAND,
            runs=gains,
        )


def own_places(seed: int) -> Places:
    """Where what depends on the seed lies."""
    return Places(TINY.at(f"seed-{seed}")) if seed else TINY


def seeded_steps(seed: int) -> Iterator[Step]:
    """The quickstart's steps; what a seed changes goes to a folder of the seed's own."""
    own = own_places(seed)
    moved = {
        getattr(TINY, name): getattr(own, name)
        for name in ("align_model", "instruct_model", "index", "baseline", "report")
    }
    for step in steps(QuickstartConfig()):
        config: Any = step.config
        uris = {name: value for name, value in config if isinstance(value, str)}
        changes: dict[str, Any] = {name: moved[uri] for name, uri in uris.items() if uri in moved}
        if "output" in changes and hasattr(config, "seed"):
            changes["seed"] = seed
        yield Step(step.title, step.job, step.recipe, config.replace(**changes))


def mean_recall(result: dict[str, Any] | None, method: str, sub_task: str) -> float:
    """Mean of R@1/5/10 in percent, the gallery being the whole index."""
    assert result is not None
    cell = result["methods"][method][sub_task]["all"]
    return statistics.mean(cell[depth] for depth in DEPTHS)
