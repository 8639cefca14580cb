"""The prepare job on a real Ray: whole, interrupted, on bad input, and on S3."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest
from chatsearch.config import Config
from chatsearch.corpora.config import CaptionedFolderConfig, Mmc4Config, ScenesConfig, ScenesCounts, WebDatasetConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.data.coin import Coin
from chatsearch.data.config import PrepareConfig
from chatsearch.data.example import build_example
from chatsearch.data.prepare import prepare
from chatsearch.data.shards import DocumentShards
from chatsearch.data.tokenizer import train_byte_bpe
from chatsearch.errors import (
    ClusterError,
    ConfigError,
    ConflictingOutputError,
    IncompleteArtefactError,
    InputError,
    MissingInputError,
    StorageError,
    TooManyRejectedError,
)
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import MANIFEST, Artefact, begin_output
from chatsearch.storage import Folder
from chatsearch.types import Kind
from PIL import Image

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

PREPARE_ALONE = """
import sys
from chatsearch.session import ray_session
from chatsearch.data.coin import Coin
from chatsearch.data.config import PrepareConfig
from chatsearch.data.example import build_example
with ray_session():
    from chatsearch.data.prepare import prepare
    prepare(PrepareConfig.model_validate_json(sys.argv[1]))
"""
SCENES = ScenesConfig(kinds=ScenesCounts(caption=300, chatsearch_m=40, text=20), image_size=48)


def contents(folder: Folder) -> dict[str, bytes]:
    """Everything but the manifest, whose provenance holds the time."""
    return {name: folder.read_bytes(name) for name in folder.list() if name != MANIFEST}


def photographs(folder: Path, count: int, *, broken: int = 0) -> Path:
    """A captioned folder of small pictures, the first ``broken`` of them cut off."""
    folder.mkdir()
    lines = []
    for number in range(count):
        Image.new("RGB", (40, 30), (number * 3 % 256, 90, 10)).save(folder / f"{number}.jpg")
        if number < broken:
            data = (folder / f"{number}.jpg").read_bytes()
            (folder / f"{number}.jpg").write_bytes(data[: len(data) // 2])
        lines.append(json.dumps({"id": f"p{number}", "file": f"{number}.jpg", "captions": [f"picture {number}"]}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def scenes(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return prepare(PrepareConfig(corpus=SCENES, output=str(tmp_path_factory.mktemp("scenes") / "shards")))


def test_shards_hold_what_the_corpus_gives_in_its_order(scenes: Artefact) -> None:
    shards = DocumentShards.open(scenes.uri)
    corpus = open_corpus(SCENES)
    samples = [sample for partition in corpus.partitions() for sample in corpus.read(partition)]
    assert list(shards.documents()) == [sample.document for sample in samples]
    assert shards.kinds == {"caption": 300, "chatsearch_m": 40, "text": 20}
    for sample in samples[-30:]:
        for name, data in sample.images.items():
            assert shards.images.get(name) == data
    scenes.verify()


def test_an_interrupted_run_redoes_only_what_is_missing_and_ends_in_the_same_bytes(
    scenes: Artefact, tmp_path: Path
) -> None:
    """As a killed run leaves it: taken, some parts whole, one without its marker, one marker without its file."""
    config = PrepareConfig(corpus=SCENES, output=str(tmp_path / "shards"))
    folder = begin_output(config.output, DOCUMENT_SHARDS, config, scenes.manifest.inputs).folder
    for name, data in contents(scenes.folder).items():
        folder.write_bytes(name, data)
    num_parts = scenes.manifest.counts["parts"]
    assert num_parts == 4
    folder.delete("parts/part-00001.json")
    folder.delete("images/part-00002.parquet")
    folder.write_bytes("documents/part-00001.parquet", b"cut off")
    kept = {p: p.stat().st_mtime_ns for n in (0, 3) for p in Path(folder.uri).glob(f"*/part-0000{n}.*")}
    with pytest.raises(IncompleteArtefactError, match="command again to continue"):
        DocumentShards.open(folder.uri)
    again = prepare(config)
    assert contents(again.folder) == contents(scenes.folder)
    assert again.manifest.files == scenes.manifest.files
    assert again.manifest.id_hash == scenes.manifest.id_hash
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    written = {p.name for p in Path(folder.uri).glob("documents/*") if p not in kept}
    assert written == {"part-00001.parquet", "part-00002.parquet"}


def no_cluster() -> NoReturn:
    raise ClusterError("no cluster answers")


def test_a_finished_output_is_left_alone_and_another_one_is_refused(scenes: Artefact) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path(scenes.uri).rglob("*")}
    assert prepare(PrepareConfig(corpus=SCENES, output=scenes.uri), no_cluster).manifest == scenes.manifest
    other = PrepareConfig(corpus=SCENES.replace(seed=5), output=scenes.uri)
    with pytest.raises(ConflictingOutputError, match="overwrite=true"):
        prepare(other, no_cluster)
    with pytest.raises(ClusterError, match="no cluster"):  # and nothing is lost
        prepare(other.replace(overwrite=True), no_cluster)
    assert {p: p.stat().st_mtime_ns for p in Path(scenes.uri).rglob("*")} == before


def test_relative_uris_reach_tasks_that_run_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(tmp_path / "in", 3)
    monkeypatch.chdir(tmp_path)
    made = prepare(PrepareConfig(corpus=CaptionedFolderConfig(path="in"), output="out"))
    assert made.uri == str(tmp_path / "out")
    assert made.manifest.counts["documents"] == 3


def test_bad_pictures_are_counted_and_too_many_fail_the_job(tmp_path: Path) -> None:
    corpus = CaptionedFolderConfig(path=str(photographs(tmp_path / "in", 40, broken=3)), records_per_partition=16)
    config = PrepareConfig(corpus=corpus, output=str(tmp_path / "out"))
    with pytest.raises(
        TooManyRejectedError, match=r"3 of 40 records .* limit is 5\.0%\. First: p0.*rejected"
    ) as caught:
        prepare(config)
    assert type(caught.value) is TooManyRejectedError
    made = prepare(config.replace(max_rejected_fraction=0.1))
    assert made.manifest.counts["documents"] == 37
    assert made.manifest.counts["rejected"] == 3
    lines = made.folder.read_bytes("rejected/part-00000.jsonl").decode().splitlines()
    assert len(lines) == 3
    assert "p2" in json.loads(lines[2])["key"]


def test_web_pages_become_training_sequences_whatever_pictures_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mmc4"
    photographs(folder, 0)
    photographs(folder / "images", 12)
    for shard in range(2):
        pages = [
            {
                "text_list": [f"Page {number} says {n}." for n in range(4)],
                "image_info": [{"image_name": f"{n}.jpg"} for n in (number, number + 6, 99)],
                "similarity_matrix": [[0.1, 0.2, 0.3, 0.1]] * 3,
            }
            for number in range(5)
        ]
        lines = "\n".join(map(json.dumps, pages)).encode()
        with zipfile.ZipFile(folder / f"docs_no_face_shard_{shard}_v3.jsonl.zip", "w") as archive:
            archive.writestr(f"docs_no_face_shard_{shard}_v3.jsonl", lines)
    monkeypatch.chdir(tmp_path)
    config = PrepareConfig(corpus=Mmc4Config(path="mmc4"), output="out")
    with pytest.raises(TooManyRejectedError, match="10 of 20 records were set aside"):
        prepare(config)
    made = prepare(config.replace(max_rejected_fraction=0.9))
    assert {key: made.manifest.counts[key] for key in ("documents", "rejected", "parts")} == {
        "documents": 10,
        "rejected": 10,
        "parts": 2,
    }
    shards = DocumentShards.open(made.uri)
    assert shards.kinds == {"interleaved": 10}
    tokenizer = train_byte_bpe(["Page 1 says 2."] * 4, 300)
    for document in shards.documents():
        example = build_example(
            document, tokenizer, 4, max_length=512, answer_only=False, coin=Coin(0, document.document_id, 0)
        )
        assert list(example.image_hashes) == document.images()
        assert len(example.image_hashes) == 2
        assert example.image_is_target.all()


def test_corpora_that_give_nothing_are_named(tmp_path: Path) -> None:
    empty = CaptionedFolderConfig(path=str(photographs(tmp_path / "in", 3)), split="val")
    with pytest.raises(InputError, match="gives no document"):
        prepare(PrepareConfig(corpus=empty, output=str(tmp_path / "a")))
    with pytest.raises(ConfigError, match="--set output=URI"):
        prepare(PrepareConfig(corpus=empty))
    with pytest.raises(MissingInputError, match="missing"):
        prepare(
            PrepareConfig(corpus=WebDatasetConfig(path=str(tmp_path / "no")), output=str(tmp_path / "b")), no_cluster
        )
    assert not (tmp_path / "b").exists()


def test_an_error_inside_a_task_comes_out_under_its_own_name(tmp_path: Path) -> None:
    corpus = CaptionedFolderConfig(path=str(photographs(tmp_path / "in", 4)))
    config = PrepareConfig(corpus=corpus, output=str(tmp_path / "out"))
    taken = begin_output(config.output, DOCUMENT_SHARDS, config, {"corpus": open_corpus(corpus).fingerprint()})
    taken.folder.write_bytes("documents", b"a file where a folder must be")
    with pytest.raises(StorageError, match=r"Cannot write .*documents/part-00000\.parquet") as caught:
        prepare(config)
    assert type(caught.value) is StorageError


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConflictingOutputError, match="not made by a job of this project"):
        prepare(PrepareConfig(corpus=SCENES, output=str(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.s3
def test_s3_in_and_out_gives_the_bytes_of_a_local_run(tmp_path: Path, s3: str) -> None:
    local = photographs(tmp_path / "in", 12)
    source = Folder(f"{s3}/in")
    for path in local.iterdir():
        source.upload(path, path.name)

    def config(path: str, output: str) -> PrepareConfig:
        corpus = CaptionedFolderConfig(path=path, records_per_partition=5, emit=(Kind.CAPTION, Kind.GALLERY))
        return PrepareConfig(corpus=corpus, output=output)

    # A process of its own: Ray's workers take their environment, and so the S3 address, from whoever starts the session.
    remote_config = config(source.uri, f"{s3}/out")
    subprocess.run([sys.executable, "-c", PREPARE_ALONE, remote_config.model_dump_json()], check=True, timeout=300)
    remote, here = prepare(remote_config), prepare(config(str(local), str(tmp_path / "out")))
    assert contents(remote.folder) == contents(here.folder)
    shards = DocumentShards.open(remote.uri)
    assert shards.num_documents == 24
    name = shards.document(23).images()[0]
    assert shards.images.get(name) == DocumentShards.open(here.uri).images.get(name)
    remote.verify()


def test_the_plan_of_a_job_is_a_configuration_alone() -> None:
    """Output, limits and resources change no bytes, so they change no fingerprint."""
    config: Config = PrepareConfig(corpus=SCENES)
    same = PrepareConfig(corpus=SCENES, output="x", max_rejected_fraction=1.0, cpus_per_task=0.1, overwrite=True)
    assert config.content() == same.content()
