"""The warm start of the scenes' vision encoder: read the ground truth of drawn pictures from f_CLS alone.

A frozen encoder with random weights sees too little; this one is trained once, briefly, then frozen for good.
Pictures of the test split show combinations of kind, colour and texture that training never showed.

Shapes: B pictures, 9 cells of the 3 x 3 grid, H x W pixels.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatsearch.corpora.scenes.draw import draw, training_pictures
from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, GRID, KINDS, NUM_CELLS, SIZES, TEXTURES
from chatsearch.corpora.scenes.world import Group, Scene, random_group
from chatsearch.errors import NonFiniteLossError
from chatsearch.model.scene_cnn import SceneCnn, SceneHeads
from chatsearch.model.vision import preprocessing_of
from chatsearch.train.config import VisionTrainingConfig

ATTRIBUTES = {"kind": KINDS, "colour": COLOURS, "texture": TEXTURES, "size": SIZES}
_EMPTY = -1
_FLIPPED_CELLS = [row * GRID + GRID - 1 - column for row in range(GRID) for column in range(GRID)]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures with their ground truth; attribute indices are -1 in empty cells."""

    pixels_B3HW: Tensor
    """uint8"""
    cells: dict[str, Tensor]
    """(B, 9) a value of :data:`ATTRIBUTES`."""
    background_B: Tensor

    def __len__(self) -> int:
        return len(self.background_B)

    def pick(self, rows: Tensor) -> Pictures:
        """Some of the pictures."""
        cells = {name: values[rows] for name, values in self.cells.items()}
        return Pictures(self.pixels_B3HW[rows], cells, self.background_B[rows])

    def mirrored(self) -> Pictures:
        """Left and right swapped, cells with them: still a picture of the same world."""
        cells = {name: values[:, _FLIPPED_CELLS] for name, values in self.cells.items()}
        return Pictures(self.pixels_B3HW.flip(3), cells, self.background_B)


def crowded_pictures(seed: int, count: int, size: int) -> Iterator[tuple[np.ndarray, Scene]]:
    """Pictures with four to nine objects, more than any scene of the world has: twice as much to learn from at one cost."""
    for index in range(count):
        key = f"crowded/{seed}/{index}"
        rng = random.Random(key)
        groups: list[Group] = []
        for cell in rng.sample(range(NUM_CELLS), rng.choice((4, 6, 9, 9, 9))):
            groups.append(random_group(rng, "train", (cell,), [group.kind for group in groups]))
        scene = Scene(rng.choice(BACKGROUNDS), tuple(groups), key)
        yield np.asarray(draw(scene, size)), scene


def collect(drawn: Iterable[tuple[np.ndarray, Scene]]) -> Pictures:
    """Pictures and truth as tensors. About 3,000 pictures a second are drawn."""
    pixels: list[Tensor] = []
    backgrounds: list[int] = []
    cells: dict[str, list[list[int]]] = {name: [] for name in ATTRIBUTES}
    for picture, scene in drawn:
        pixels.append(torch.from_numpy(picture.copy()).permute(2, 0, 1))
        backgrounds.append(BACKGROUNDS.index(scene.background))
        for name, values in ATTRIBUTES.items():
            cells[name].append([_EMPTY if g is None else values.index(getattr(g, name)) for g in scene.cells()])
    return Pictures(
        torch.stack(pixels), {name: torch.tensor(rows) for name, rows in cells.items()}, torch.tensor(backgrounds)
    )


def pretrain_vision(
    config: VisionTrainingConfig, *, progress: Callable[[str], None] = print
) -> tuple[SceneCnn, dict[str, float]]:
    """Train the network and its read-outs together; the read-outs are thrown away.

    Returns:
        The network, and its accuracy in percent on unseen pictures of the test split, see :func:`accuracy`.

    Raises:
        NonFiniteLossError: the loss left the numbers; names the epoch.
    """
    started = time.monotonic()
    size = config.encoder.image_size
    pictures = collect(training_pictures(config.seed, config.num_pictures, size, "train"))
    crowded = collect(crowded_pictures(config.seed, config.num_crowded, size))
    progress(f"drew {len(pictures) + len(crowded)} pictures in {time.monotonic() - started:.0f} s")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SceneCnn(config.encoder)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # three times faster on a CPU
        heads = SceneHeads(config.encoder, {name: len(values) for name, values in ATTRIBUTES.items()}, len(BACKGROUNDS))
        _fit(network, heads, [(crowded, config.crowded_epochs), (pictures, config.epochs)], config, progress)
    network.eval()
    test = collect(training_pictures(config.seed + 1, config.num_test_pictures, size, "test"))
    scores = accuracy(network, heads, test, config)
    progress(", ".join(f"{name} {value:.1f} %" for name, value in scores.items()))
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network, scores


def _fit(
    network: SceneCnn,
    heads: SceneHeads,
    lessons: Sequence[tuple[Pictures, int]],
    config: VisionTrainingConfig,
    progress: Callable[[str], None],
) -> None:
    """Go through each set of pictures so many times, under one learning-rate schedule."""
    scale = preprocessing_of(config.encoder).scale
    parameters = [*network.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.02)
    epochs = [pictures for pictures, repeats in lessons for _ in range(repeats)]
    num_steps = sum(len(pictures) // config.batch_size for pictures in epochs)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=num_steps, pct_start=0.15, anneal_strategy="linear"
    )
    generator = torch.Generator().manual_seed(config.seed)
    network.train()
    for epoch, pictures in enumerate(epochs, start=1):
        started, total = time.monotonic(), torch.zeros(())
        for batch in _batches(pictures, config.batch_size, generator):
            pixels_B3HW = scale(batch.pixels_B3HW).contiguous(memory_format=torch.channels_last)
            loss = _loss(heads(network(pixels_B3HW).cls_BD), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        mean = float(total) / (len(pictures) // config.batch_size)
        if not math.isfinite(mean):
            raise NonFiniteLossError(
                f"The loss of the vision encoder is {mean} in epoch {epoch}. Lower learning_rate={config.learning_rate}."
            )
        progress(f"vision epoch {epoch}/{len(epochs)}: loss {mean:.3f}, {time.monotonic() - started:.1f} s")


def _batches(pictures: Pictures, size: int, generator: torch.Generator) -> Iterator[Pictures]:
    """Whole batches in random order, every other one mirrored."""
    order = torch.randperm(len(pictures), generator=generator)
    for rows in order.split(size):
        if len(rows) < size:
            return
        batch = pictures.pick(rows)
        yield batch.mirrored() if torch.rand((), generator=generator) < 0.5 else batch


def _loss(read: tuple[Tensor, dict[str, Tensor], Tensor], batch: Pictures) -> Tensor:
    presence_B9, attributes, background = read
    present_B9 = batch.cells["kind"] != _EMPTY
    loss = F.binary_cross_entropy_with_logits(presence_B9, present_B9.float()) + 0.5 * F.cross_entropy(
        background, batch.background_B
    )
    for name, logits in attributes.items():
        loss = loss + F.cross_entropy(logits[present_B9], batch.cells[name][present_B9])
    return loss


@torch.inference_mode()
def accuracy(
    network: SceneCnn, heads: SceneHeads, pictures: Pictures, config: VisionTrainingConfig
) -> dict[str, float]:
    """Percent read correctly: presence over all cells, attributes over cells with an object, background over pictures."""
    scale = preprocessing_of(config.encoder).scale
    right: dict[str, int] = dict.fromkeys(("presence", *ATTRIBUTES, "background"), 0)
    num_objects = int((pictures.cells["kind"] != _EMPTY).sum())
    for rows in torch.arange(len(pictures)).split(250):
        batch = pictures.pick(rows)
        presence_B9, attributes, background = heads(network(scale(batch.pixels_B3HW)).cls_BD)
        present_B9 = batch.cells["kind"] != _EMPTY
        right["presence"] += int(((presence_B9 > 0) == present_B9).sum())
        right["background"] += int((background.argmax(1) == batch.background_B).sum())
        for name, logits in attributes.items():
            right[name] += int((logits.argmax(2) == batch.cells[name])[present_B9].sum())
    out_of = {"presence": len(pictures) * NUM_CELLS, "background": len(pictures)}
    return {name: 100.0 * count / out_of.get(name, num_objects) for name, count in right.items()}
