"""The paper's comparisons in small: Tables 2, 4 and 6, Figures 5 and 6, on the scenes world at three seeds."""

from __future__ import annotations

import itertools
import json

from chatsearch.evaluate.seeds import OURS, ClaimConfig
from chatsearch.types import Kind

from jobs.cell import CellConfig, SweepConfig

_CHATSEARCH = (Kind.T, Kind.I, Kind.M)
_QUEUE_SIZES = (0, 1000, 100, 250, 500, 2000, 4000)
"""The two that a claim is about come first."""
_SHARES = (0.0, 0.1, 0.2, 0.5)
"""The paper's 1k, 2k, 5k, 10k and 20k dialogues are 0.05 to 1 of what it has; scenes have 9,500."""


def _both(name: str, *settings: str) -> CellConfig:
    """A cell with the same settings in both stages."""
    return CellConfig(name=name, align=settings, instruct=settings)


def _mix(name: str, *kinds: Kind, settings: tuple[str, ...] = ()) -> CellConfig:
    """A cell whose stage 2 sees some kinds of documents alone, in as many steps where ``settings`` say nothing else."""
    return CellConfig(name=name, instruct=(f"streams.0.kinds={json.dumps(kinds)}", *settings))


def _output(name: str) -> str:
    return f"runs/sweeps/{name}.json"


def scenes_table2() -> SweepConfig:
    """Table 2: ours beside the dual encoder by text, picture and both, FROMAGe and chance."""
    return SweepConfig(
        cells=(CellConfig(name=OURS, baselines=("random", "dual_encoder", "fromage")),),
        claims=(
            ClaimConfig(text="1.79 x FROMAGe", row=OURS, over="FROMAGe", factor=1.79),
            ClaimConfig(text="1.9 x CLIP-t style", row=OURS, over="dual encoder (t)", factor=1.9),
            ClaimConfig(text="above FROMAGe", row=OURS, over="FROMAGe"),
            ClaimConfig(text="m at least i", row=OURS, over=OURS, task="m", over_task="i", or_equal=True),
            ClaimConfig(text="i above CLIP-ti style", row=OURS, over="dual encoder (ti)", task="i", over_task="i"),
            ClaimConfig(text="m above CLIP-ti style", row=OURS, over="dual encoder (ti)", task="m", over_task="m"),
            ClaimConfig(text="t above CLIP-t style", row=OURS, over="dual encoder (t)", task="t", over_task="t"),
        ),
        output=_output("scenes_table2"),
    )


def scenes_queue() -> SweepConfig:
    """Figure 5: the size of the queue of negatives; 0 takes those of the step's own documents."""
    return SweepConfig(
        cells=tuple(_both(f"queue {size}", f"objective.queue_size={size}") for size in _QUEUE_SIZES),
        claims=(ClaimConfig(text="a queue of 1,000 beats in-batch negatives", row="queue 1000", over="queue 0"),),
        output=_output("scenes_queue"),
    )


def scenes_ablations() -> SweepConfig:
    """Table 4: the whole model, without queue, with a frozen language model."""
    return SweepConfig(
        cells=(
            CellConfig(name=OURS),
            _both("no queue", "objective.queue_size=0"),
            _both("frozen language model", "model.freeze_language=true"),
        ),
        claims=(
            ClaimConfig(text="a trained language model beats a frozen one", row=OURS, over="frozen language model"),
            ClaimConfig(text="a queue of 1,000 beats in-batch negatives", row=OURS, over="no queue"),
        ),
        output=_output("scenes_ablations"),
    )


def scenes_instruction_mix() -> SweepConfig:
    """Table 6: what stage 2 learns from; edits stand for InstructPix2Pix, questions for LLaVA-150k.

    In as many steps, other documents take the place of dialogues; the last row tells what dialogues alone give that are shown as often
    as the whole mix shows them.
    """
    return SweepConfig(
        cells=(
            _mix("ChatSearch only", *_CHATSEARCH),
            CellConfig(name="all"),
            _mix("+ questions", *_CHATSEARCH, Kind.QUESTION),
            _mix("t only + questions + edits", Kind.T, Kind.QUESTION, Kind.EDIT),
            # 9,500 of 13,300 documents, in 500 steps
            _mix("ChatSearch only, as many dialogues", *_CHATSEARCH, settings=("steps=357",)),
        ),
        claims=(
            ClaimConfig(text="the mix beats ChatSearch only", row="all", over="ChatSearch only"),
            ClaimConfig(text="questions help", row="+ questions", over="ChatSearch only"),
            ClaimConfig(text="i and m dialogues help", row="all", over="t only + questions + edits"),
            ClaimConfig(
                text="other documents beside as many dialogues help",
                row="all",
                over="ChatSearch only, as many dialogues",
            ),
        ),
        output=_output("scenes_instruction_mix"),
    )


def scenes_long_mix() -> SweepConfig:
    """Table 6's first question where stage 2 shows every document 3.8 times, as the paper's does, in place of 1.5 times.

    Over as many steps the ChatSearch dialogues alone come round 5.3 times.
    """
    return SweepConfig(
        cells=(CellConfig(name="all"), _mix("ChatSearch only", *_CHATSEARCH)),
        claims=(
            ClaimConfig(text="the mix beats ChatSearch only", row="all", over="ChatSearch only"),
            ClaimConfig(text="m at least i", row="all", over="all", task="m", over_task="i", or_equal=True),
        ),
        instruct=("steps=1264",),  # 3.8 x 13,300 documents / 40 a step
        output=_output("scenes_long_mix"),
    )


def scenes_data_scale() -> SweepConfig:
    """Figure 6: shares of the ChatSearch dialogues beside all questions and edits, in as many steps."""
    shares = [
        CellConfig(
            name=f"ChatSearch x {share:g}",
            instruct=(f"streams.0.fractions={json.dumps(dict.fromkeys(_CHATSEARCH, share))}",),
        )
        for share in _SHARES
    ]
    whole = CellConfig(name="ChatSearch x 1")
    names = [cell.name for cell in (*shares, whole)]
    return SweepConfig(
        cells=(whole, *shares),
        claims=tuple(
            ClaimConfig(text=f"{more} above {less}", row=more, over=less) for less, more in itertools.pairwise(names)
        ),
        output=_output("scenes_data_scale"),
    )
