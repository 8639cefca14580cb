"""clip-retrieval's inference over tars of pictures: its own reader, writer and runner, with our tower where it has CLIP.

Its mapper loads CLIP from published weights, so the tower goes through the lines of ``ClipMapper.__call__`` here. The package itself is
imported without its command lines, which need a web server and more. Turns are served between batches: the reader has no end, and the
writer keeps what it gets, as it does up to a million pictures.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import types
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import torch
from chatsearch.model.frozen_encoder import load_vision
from chatsearch.model.vision import VisionEncoder

ROUNDS_OF_TARS = 10_000


def part_of(name: str) -> Any:
    """A module of ``clip_retrieval.clip_inference``, without what its packages import."""
    root = Path(str(distribution("clip-retrieval").locate_file("clip_retrieval")))
    for package, path in (("clip_retrieval", root), ("clip_retrieval.clip_inference", root / "clip_inference")):
        if package not in sys.modules:
            module = types.ModuleType(package)
            module.__path__ = [str(path)]
            sys.modules[package] = module
    return importlib.import_module(f"clip_retrieval.clip_inference.{name}")


class TowerMapper:
    """As ``ClipMapper`` does it: no gradients, unit length, float16."""

    def __init__(self, tower: VisionEncoder) -> None:
        self._tower = tower

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Embeddings of a batch."""
        with torch.no_grad():
            image_features = self._tower(item["image_tensor"]).cls_BD
            image_features /= image_features.norm(dim=-1, keepdim=True)
            image_embs = image_features.cpu().to(torch.float16).numpy()
        return {
            "image_embs": image_embs,
            "text_embs": None,
            "image_filename": item["image_filename"],
            "text": None,
            "metadata": None,
        }


class Turns:
    """Where its runner tells of each batch: the turn ends when enough pictures are done."""

    def __init__(self, facts: dict[str, str]) -> None:
        self._facts, self._wanted, self._taken, self._begin = facts, 0, 0, 0.0

    def start(self) -> None:
        """The runner begins."""

    def end(self) -> None:
        """It never does."""

    def __call__(self, stats: dict[str, Any]) -> None:
        """One batch was read, mapped and written."""
        self._taken += stats["sample_count"]
        if self._wanted and self._taken < self._wanted:
            return
        answer = {"samples": self._taken, "seconds": time.perf_counter() - self._begin} if self._wanted else self._facts
        print(json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        self._wanted, self._taken, self._begin = int(line), 0, time.perf_counter()


def main() -> None:
    """Serve turns."""
    told = json.loads(sys.argv[1])
    torch.set_num_threads(told["threads"])
    tower = load_vision(told["model"])
    reader, writer, runner = (part_of(name) for name in ("reader", "writer", "runner"))
    tars = sorted(str(path) for path in Path(told["tars"]).glob("*.tar"))
    words = f"{told['threads']} encoder threads, {told['workers']} workers of its DataLoader, batches of {told['batch_size']}"
    turns = Turns({"version": version("clip-retrieval"), "settings": words})
    runner.Runner(
        lambda sampler: reader.WebdatasetReader(
            sampler,
            lambda image: tower.preprocess(image.convert("RGB")),
            None,
            tars * ROUNDS_OF_TARS,
            told["batch_size"],
            told["workers"],
            enable_text=False,
            enable_image=True,
            enable_metadata=False,
        ),
        lambda: TowerMapper(tower),
        lambda number: writer.NumpyWriter(number, told["output"], False, True, False, 1),
        lambda number: turns,
        1,
    )(0)


if __name__ == "__main__":
    main()
