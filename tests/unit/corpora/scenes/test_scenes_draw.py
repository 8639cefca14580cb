from __future__ import annotations

import io
import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
from chatsearch.corpora.scenes.backgrounds import NUM_VARIANTS, background
from chatsearch.corpora.scenes.draw import draw, encode, training_pictures
from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, GRID, KINDS, RGB, SIZES, TEXTURES
from chatsearch.corpora.scenes.world import Group, Scene, random_scene
from PIL import Image


def pixels(scene: Scene, size: int = 64) -> np.ndarray:
    return np.asarray(draw(scene, size)).astype(int)


def cell_of(array: np.ndarray, cell: int) -> np.ndarray:
    row, column = divmod(cell, GRID)
    edges = [round(step * array.shape[0] / GRID) for step in range(GRID + 1)]
    return array[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]


def single(kind: str, colour: str, texture: str, size: str, cell: int = 4) -> Scene:
    return Scene("plain", (Group(kind, colour, texture, size, (cell,)),), "n")


def test_same_scene_same_pixels_in_another_process() -> None:
    code = (
        "import random, hashlib\n"
        "from chatsearch.corpora.scenes.draw import draw\n"
        "from chatsearch.corpora.scenes.world import random_scene\n"
        "print(hashlib.sha256(b''.join(draw(random_scene(random.Random(n), 'train', str(n))).tobytes() for n in range(20))).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


@pytest.mark.parametrize("size", [48, 64, 96, 224])
def test_size_and_encoding(size: int) -> None:
    scene = random_scene(random.Random(1), "train", "n")
    image = Image.open(io.BytesIO(encode(scene, size)))
    assert (image.size, image.mode, image.format) == ((size, size), "RGB", "PNG")
    assert np.array_equal(np.asarray(image), np.asarray(draw(scene, size)))


@pytest.mark.parametrize("colour", COLOURS)
def test_colour_of_object_pixels(colour: str) -> None:
    for kind, cell in itertools.product(("circle", "apple", "key"), (0, 4, 8)):
        patch = cell_of(pixels(single(kind, colour, "solid", "medium", cell)), cell)
        assert (np.abs(patch - RGB[colour]).max(axis=2) <= 2).sum() >= 12, (kind, cell)


def test_only_the_cells_of_an_object_change() -> None:
    """Nothing is drawn where the truth says there is nothing; a rim of two pixels may reach over a border."""
    for number in range(40):
        scene = random_scene(random.Random(number), "train", f"n{number}")
        empty = pixels(Scene(scene.background, (), scene.nuisance))
        difference = np.abs(pixels(scene) - empty).max(axis=2)
        for cell, group in enumerate(scene.cells()):
            patch = cell_of(difference, cell)
            changed = (patch > 8).sum()
            inner = (patch[3:-3, 3:-3] > 8).sum()
            assert (changed > 20) if group else (inner == 0), (number, cell)


def mean_difference(first: Scene, second: Scene) -> float:
    return float(np.abs(pixels(first) - pixels(second)).mean())


def test_any_two_values_look_different() -> None:
    """The least difference of two pictures that differ in one value, in mean grey levels a pixel of the object's cell."""
    base = {"kind": "circle", "colour": "red", "texture": "solid", "size": "medium"}
    for name, values in (("kind", KINDS), ("colour", COLOURS), ("texture", TEXTURES), ("size", SIZES)):
        for first, second in itertools.combinations(values, 2):
            for size in ("small", "large"):
                fixed = base | ({"size": size} if name != "size" else {})
                a, b = (single(**(fixed | {name: value})) for value in (first, second))
                difference = np.abs(cell_of(pixels(a), 4) - cell_of(pixels(b), 4)).mean()
                assert difference > 3, (name, first, second, size, difference)


def test_striped_black_and_white_differ() -> None:
    black, white = (cell_of(pixels(single("square", colour, "striped", "large")), 4) for colour in ("black", "white"))
    assert (black.max(axis=2) < 40).sum() > 100
    assert (white[4:-4, 4:-4].max(axis=2) < 40).sum() == 0


def test_backgrounds_differ_more_than_their_variants() -> None:
    means = {
        name: np.stack([np.asarray(background(name, v, 64)).reshape(-1, 3).mean(axis=0) for v in range(NUM_VARIANTS)])
        for name in BACKGROUNDS
    }
    for first, second in itertools.combinations(BACKGROUNDS, 2):
        spread = np.abs(means[first][:, None] - means[second][None]).max(axis=2).min()
        detail = abs(
            np.asarray(background(first, 0, 64)).std(axis=(0, 1))
            - np.asarray(background(second, 0, 64)).std(axis=(0, 1))
        ).max()
        assert max(spread, detail) > 8, (first, second)


def test_nuisance_moves_objects_a_little() -> None:
    scene = random_scene(random.Random(3), "train", "a")
    other = Scene(scene.background, scene.groups, "b")
    assert mean_difference(scene, other) > 0.5


def test_edit_keeps_everything_else() -> None:
    groups = (Group("car", "red", "solid", "medium", (0,)), Group("key", "blue", "dotted", "small", (8,)))
    before = Scene("sea", groups, "n")
    after = before.with_group("car", groups[0].changed("colour", "green"))
    difference = np.abs(pixels(before) - pixels(after)).max(axis=2)
    assert cell_of(difference, 0).max() > 100
    assert difference[24:, 24:].max() == 0


def test_training_pictures() -> None:
    found = list(training_pictures(7, 12, 64))
    again = list(training_pictures(7, 12, 64))
    assert len(found) == 12
    for (array, scene), (array_again, scene_again) in zip(found, again, strict=True):
        assert array.shape == (64, 64, 3)
        assert array.dtype == np.uint8
        assert scene == scene_again
        assert np.array_equal(array, array_again)
        assert np.array_equal(array, np.asarray(draw(scene)))
    assert len({scene.item_id for _, scene in found} | {s.item_id for _, s in training_pictures(8, 12)}) == 24
