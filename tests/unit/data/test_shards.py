from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.data.shards import DocumentShards, ImageStore
from chatsearch.errors import (
    CorruptArtefactError,
    FingerprintMismatchError,
    IncompleteArtefactError,
    InputError,
    MissingInputError,
)
from chatsearch.manifest import MANIFEST
from chatsearch.storage import Folder
from chatsearch.types import Document, Kind, Segment


def test_documents_come_back_as_they_went_in(make_shards, caption_sample, dialogue_sample) -> None:
    samples = [caption_sample(i) if i % 3 else dialogue_sample(i) for i in range(11)]
    shards = DocumentShards.open(make_shards(samples))
    wanted = [s.document for s in samples]
    assert shards.num_documents == 11
    assert [shards.document(i) for i in range(11)] == wanted
    assert list(shards.documents()) == wanted
    assert list(shards.documents([Kind.EDIT])) == [d for d in wanted if d.kind == Kind.EDIT]
    assert [wanted[i] for i in shards.select([Kind.CAPTION])] == [d for d in wanted if d.kind == Kind.CAPTION]
    assert shards.select([]).tolist() == list(range(11))
    assert shards.kinds == {"caption": 7, "edit": 4}
    copy = pickle.loads(pickle.dumps(shards))  # noqa: S301
    assert copy.document(5) == wanted[5]
    with pytest.raises(InputError, match="holds 11 documents; there is no number 11"):
        shards.document(11)


def test_pictures_are_found_by_hash_across_parts(make_shards, caption_sample) -> None:
    samples = [caption_sample(i % 7) for i in range(20)]
    samples = [Sample(Document(f"{i}", Kind.CAPTION, s.document.segments), s.images) for i, s in enumerate(samples)]
    store = ImageStore.open(make_shards(samples, per_part=3))
    wanted = {name: data for sample in samples for name, data in sample.images.items()}
    assert store.hashes() == sorted(wanted)
    assert len(store) == 7
    with ThreadPoolExecutor(4) as pool:
        assert dict(zip(wanted, pool.map(store.get, wanted), strict=True)) == wanted
    assert "0" * 64 not in store
    with pytest.raises(MissingInputError, match="which holds 7"):
        store.get("0" * 64)


def test_one_flipped_bit_is_found_before_a_document_or_a_picture_is_used(make_shards, caption_sample) -> None:
    sample = caption_sample(1)
    ((name, data),) = sample.images.items()
    uri = make_shards([sample])
    for folder, at in (("documents", 40), ("images", None)):
        (path,) = Path(uri, folder).iterdir()
        whole = path.read_bytes()
        place = whole.index(data) + len(data) // 2 if at is None else at
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CorruptArtefactError, match=r"documents.*is damaged"):
        DocumentShards.open(uri).document(0)
    with pytest.raises(CorruptArtefactError, match=rf"{name}.*is damaged"):
        ImageStore.open(uri).get(name)


def test_no_damage_to_a_file_of_pictures_is_more_than_a_named_error(make_shards, caption_sample) -> None:
    samples = [caption_sample(n) for n in range(3)]
    uri = make_shards(samples)
    wanted = {name: data for sample in samples for name, data in sample.images.items()}
    (path,) = Path(uri, "images").iterdir()
    whole = path.read_bytes()
    num_named = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        store = ImageStore.open(uri)
        for name, data in wanted.items():
            try:
                assert store.get(name) == data
            except (CorruptArtefactError, MissingInputError):
                num_named += 1
    assert num_named


def test_row_groups_of_large_pictures_are_addressed_right(make_shards, caption_sample) -> None:
    from io import BytesIO

    import numpy as np
    from PIL import Image

    samples = []
    for i in range(6):
        buffer = BytesIO()
        noise = np.random.default_rng(i).integers(0, 256, (700, 700, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")  # about 1.5 MB: three make a row group
        samples.append(caption_sample(i, data=buffer.getvalue()))
    store = ImageStore.open(make_shards(samples, per_part=6))
    for sample in reversed(samples):
        for name, data in sample.images.items():
            assert store.get(name) == data


def test_pictures_asked_for_at_random_are_read_alone_once_their_groups_are_known(
    make_shards, caption_sample, monkeypatch
) -> None:
    monkeypatch.setattr("chatsearch.data.part._BYTES_PER_GROUP", 1000)  # some twelve pictures
    samples = [caption_sample(i) for i in range(400)]
    store = ImageStore.open(make_shards(samples, per_part=250))
    wanted = {name: data for sample in samples for name, data in sample.images.items()}
    names = sorted(wanted)  # hashes: no order of the file
    assert [store.get(name) for name in names] == [wanted[name] for name in names]
    assert len(store._groups) < len(store._spans)
    reads: list[int] = []
    read_range = Folder.read_range

    def counted(folder: Folder, name: str, start: int, length: int) -> bytes:
        reads.append(length)
        return read_range(folder, name, start, length)

    monkeypatch.setattr(Folder, "read_range", counted)
    monkeypatch.setattr(ImageStore, "_opened", None)  # no group is read a second time
    assert [store.get(name) for name in names] == [wanted[name] for name in names]
    assert len(reads) > 0.5 * len(names)
    assert set(reads) <= {len(data) for data in wanted.values()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"use_dictionary": False, "data_page_size": 256, "data_page_version": "2.0"},
        {"data_page_version": "2.0"},
        {"compression": "zstd"},  # nothing lies there as it is: whole groups are read
        {"use_dictionary": False, "column_encoding": {"bytes": "DELTA_BYTE_ARRAY"}},
    ],
    ids=str,
)
def test_pictures_are_found_however_parquet_lays_them_out(make_shards, caption_sample, monkeypatch, options) -> None:
    monkeypatch.setattr("chatsearch.data.shards._GROUPS_KEPT", 1)
    samples = [caption_sample(i) for i in range(60)]
    uri = make_shards(samples, per_part=60)
    store = ImageStore.open(uri)
    (path,) = Path(uri, "images").iterdir()
    pq.write_table(pq.read_table(path), path, row_group_size=16, **{"compression": "none", **options})
    for _ in range(2):
        for number in range(60):
            ((name, data),) = samples[number * 17 % 60].images.items()
            assert store.get(name) == data
    found = [spans is not None for spans in store._spans.values()]
    assert found == [not {"compression", "column_encoding"} & options.keys()] * 4


def test_splits_that_training_must_not_see_are_refused(make_shards, caption_sample) -> None:
    samples = [caption_sample(0), caption_sample(1, split="val"), caption_sample(2, split="test")]
    shards = DocumentShards.open(make_shards(samples))
    with pytest.raises(InputError, match="1 test, 1 val documents where only train"):
        shards.require_split("train")
    DocumentShards.open(make_shards(samples[:1], name="train-only")).require_split("train")


def test_unfinished_and_foreign_folders_are_refused(make_shards, caption_sample, tmp_path) -> None:
    uri = make_shards([caption_sample(0)])
    Folder(uri).delete(MANIFEST)
    with pytest.raises(IncompleteArtefactError, match="has not finished"):
        DocumentShards.open(uri)
    other = make_shards([caption_sample(0)], name="other")
    manifest = json.loads(Folder(other).read_bytes(MANIFEST))
    Folder(other).write_bytes(MANIFEST, json.dumps({**manifest, "kind": "gallery-index", "seal": ""}).encode())
    with pytest.raises(FingerprintMismatchError, match="gallery-index, not a document-shards"):
        ImageStore.open(other)


def test_bad_records_are_set_aside_with_key_and_reason(make_shards, caption_sample) -> None:
    good = caption_sample(0)
    (name,) = good.images
    words = Segment(text="words")
    bad = [
        Rejected("row 7", "no caption"),
        caption_sample(1, data=good.images[name][:-30]),
        caption_sample(2, text="  \n"),
        Sample(Document("lost", Kind.CAPTION, (Segment(image="f" * 64), words)), {}),
        Sample(Document("swapped", Kind.CAPTION, (Segment(image="f" * 64), words)), {"f" * 64: b"other bytes"}),
        Sample(Document("bare", Kind.TEXT, ())),
        caption_sample(3, text="half \ud83d"),
        Rejected("caf\udce9.jpg", "a name that is no text"),
    ]
    uri = make_shards([*bad, good], per_part=10)
    shards = DocumentShards.open(uri)
    assert (shards.num_documents, shards.artefact.manifest.counts["rejected"]) == (1, len(bad))
    lines = [json.loads(line) for line in Folder(uri).read_bytes("rejected/part-00000.jsonl").splitlines()]
    assert [line["key"] for line in lines] == [
        "row 7", "caption/1", "caption/2", "lost", "swapped", "bare", "caption/3", "caf\\udce9.jpg"
    ]  # fmt: skip
    assert "truncated" in lines[1]["reason"]
    assert "empty text" in lines[2]["reason"]
    assert "surrogate" in lines[6]["reason"]
    assert shards.images.hashes() == [name]


def test_equal_records_give_equal_bytes_and_two_of_one_id_are_refused(make_shards, caption_sample) -> None:
    folders = [Folder(make_shards([caption_sample(i) for i in range(9)], name=name)) for name in ("a", "b")]
    names = [n for n in folders[0].list() if n != MANIFEST]
    assert len(names) == 9  # documents, images and a marker for each of three parts
    assert all(folders[0].read_bytes(n) == folders[1].read_bytes(n) for n in names)
    with pytest.raises(InputError, match="id 'caption/1'"):
        make_shards([caption_sample(1), caption_sample(1)], per_part=1, name="twice")


def test_shards_of_words_alone_hold_no_picture(make_shards) -> None:
    words = Sample(Document("words", Kind.TEXT, (Segment(text="only words"),)))
    images = DocumentShards.open(make_shards([words])).images
    assert len(images) == 0 and images.hashes() == []
    assert "f" * 64 not in images
