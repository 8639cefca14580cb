"""Artefacts: complete when their manifest is there, refused when they are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest
from chatsearch.config import Config, runtime
from chatsearch.errors import (
    ArtefactError,
    ConfigError,
    ConflictingOutputError,
    CorruptArtefactError,
    FingerprintMismatchError,
    IncompleteArtefactError,
)
from chatsearch.manifest import (
    MANIFEST,
    Artefact,
    begin_output,
    fingerprint,
    hash_ids,
    is_begun,
    open_artefact,
    read_manifest,
)
from chatsearch.storage import Folder
from hypothesis import given
from hypothesis import strategies as st


class Made(Config):
    size: int = 1
    workers: int = runtime(1)


INPUTS = {"corpus": "abc"}


def make(uri: Path, config: Made | None = None, *, overwrite: bool = False) -> Artefact:
    output = begin_output(str(uri), "thing", config or Made(), INPUTS, overwrite=overwrite)
    if output.finished:
        return output.finished
    output.folder.write_bytes("parts/0.bin", b"zero")
    output.folder.write_bytes("parts/1.bin", b"one")
    return output.commit(counts={"parts": 2}, id_hash=hash_ids(["a"]), facts={"dimension": 4})


def test_an_artefact_tells_what_it_is(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    opened = open_artefact(str(tmp_path / "a"), "thing", verify=True)
    assert opened.manifest == made.manifest
    assert opened.fingerprint == fingerprint("thing", Made(), INPUTS)
    assert opened.manifest.inputs == INPUTS
    assert set(opened.manifest.files) == {"parts/0.bin", "parts/1.bin"}
    assert opened.manifest.files["parts/0.bin"].num_bytes == 4
    assert set(opened.manifest.provenance) == {"chatsearch", "created", "host"}
    assert not (tmp_path / "a" / "started.json").exists()


def test_the_fingerprint_is_of_what_decides_the_bytes(tmp_path: Path) -> None:
    one = make(tmp_path / "a")
    assert make(tmp_path / "b", Made(workers=9)).fingerprint == one.fingerprint
    assert make(tmp_path / "c", Made(size=2)).fingerprint != one.fingerprint
    assert fingerprint("thing", Made(), {"corpus": "other"}) != one.fingerprint
    assert fingerprint("other", Made(), INPUTS) != one.fingerprint


def test_a_finished_output_is_left_alone(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert make(tmp_path / "a", Made(workers=4)).manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == times


def test_an_interrupted_output_is_continued(tmp_path: Path) -> None:
    output = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS)
    output.folder.write_bytes("parts/0.bin", b"zero")
    with pytest.raises(IncompleteArtefactError, match="command again to continue"):
        open_artefact(str(tmp_path / "a"), "thing")
    again = begin_output(str(tmp_path / "a"), "thing", Made(workers=3), INPUTS)
    assert again.finished is None
    assert again.folder.read_bytes("parts/0.bin") == b"zero"


@pytest.mark.parametrize("finished", [True, False])
def test_another_artefact_at_the_output_is_kept(tmp_path: Path, finished: bool) -> None:
    if finished:
        held = make(tmp_path / "a").fingerprint
    else:
        begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS)
        held = fingerprint("thing", Made(), INPUTS)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with pytest.raises(ConflictingOutputError, match=f"{held}.*overwrite=true"):
        make(tmp_path / "a", Made(size=2))
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    replaced = make(tmp_path / "a", Made(size=2), overwrite=True)
    assert replaced.manifest.config["size"] == 2


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("name", ["thesis.tex", MANIFEST, "started.json"])
def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text('{"name": "ten years of work"}')
    with pytest.raises(ArtefactError, match="by hand"):
        make(tmp_path, overwrite=overwrite)
    assert (tmp_path / name).read_text() == '{"name": "ten years of work"}'


def test_what_fails_before_an_output_is_begun_changes_nothing(tmp_path: Path) -> None:
    def fail() -> NoReturn:
        raise ConfigError("not today")

    held = make(tmp_path / "a")
    for uri, overwrite in ((held.uri, True), (str(tmp_path / "b"), False)):
        with pytest.raises(ConfigError, match="not today"):
            begin_output(uri, "thing", Made(size=2), INPUTS, overwrite=overwrite, before=fail)
    assert open_artefact(held.uri, "thing").manifest == held.manifest
    assert not (tmp_path / "b").exists()
    assert begin_output(held.uri, "thing", Made(), INPUTS, before=fail).finished == held


def test_an_interrupted_output_is_continued_with_overwrite_too(tmp_path: Path) -> None:
    make(tmp_path / "a", Made(size=2))
    output = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS, overwrite=True)
    assert not output.folder.exists(MANIFEST) and not output.folder.exists("parts/0.bin")
    output.folder.write_bytes("parts/0.bin", b"new")
    again = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS, overwrite=True)
    assert again.finished is None
    assert again.folder.read_bytes("parts/0.bin") == b"new"
    again.commit(counts={})
    anew = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS, overwrite=True)
    assert not anew.folder.exists("parts/0.bin")


def test_what_a_killed_replacement_leaves_is_neither_continued_nor_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a", Made(size=2))
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Folder, "delete_all", raise_interrupt)
        make(tmp_path / "a", overwrite=True)
    assert (tmp_path / "a" / "parts" / "0.bin").exists()
    for config in (Made(), Made(size=2)):
        with pytest.raises(ConflictingOutputError, match="overwrite=true"):
            make(tmp_path / "a", config)
    output = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS, overwrite=True)
    assert output.folder.list() == ["started.json"]


def raise_interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


class Reading(Config):
    sources: tuple[str, ...] = runtime(())
    output: str = runtime("")


@pytest.mark.parametrize("source", ["data", "./data/inner/", "{here}/data"])
def test_an_output_that_is_or_holds_an_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "data")
    (tmp_path / "data" / "inner").mkdir()
    config = Reading(sources=("/elsewhere/x", source.format(here=tmp_path)))
    with pytest.raises(ConfigError, match=r"the input sources\.1="):
        begin_output("data/", "thing", config, {}, overwrite=True)
    assert read_manifest("data") is not None
    assert begin_output("data-2", "thing", config, {}).finished is None


def test_whether_an_output_is_begun(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.jpg").write_bytes(b"")
    assert not is_begun(str(tmp_path / "photographs")) and not is_begun(str(tmp_path / "none"))
    output = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS)
    assert is_begun(str(tmp_path / "a"))
    output.commit(counts={})
    assert not is_begun(str(tmp_path / "a"))


def test_what_is_wrong_with_an_artefact_is_named(tmp_path: Path) -> None:
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        open_artefact(str(tmp_path / "none"), "thing")
    make(tmp_path / "a")
    with pytest.raises(FingerprintMismatchError, match="holds a thing, not a model-bundle"):
        open_artefact(str(tmp_path / "a"), "model-bundle")
    part = tmp_path / "a" / "parts" / "1.bin"
    part.write_bytes(b"two")
    assert open_artefact(str(tmp_path / "a"), "thing").manifest.counts == {"parts": 2}
    with pytest.raises(CorruptArtefactError, match=r"parts/1\.bin is damaged"):
        open_artefact(str(tmp_path / "a"), "thing", verify=True)
    part.write_bytes(b"three")
    with pytest.raises(CorruptArtefactError, match=r"parts/1\.bin has 5 bytes, manifest says 3"):
        open_artefact(str(tmp_path / "a"), "thing")
    part.unlink()
    with pytest.raises(CorruptArtefactError, match=r"parts/1\.bin is missing"):
        open_artefact(str(tmp_path / "a"), "thing")


def test_a_checked_path_holds_what_the_manifest_says(tmp_path: Path) -> None:
    artefact = make(tmp_path / "a")
    assert Path(artefact.checked_path("parts/0.bin")).read_bytes() == b"zero"
    (tmp_path / "a" / "parts" / "0.bin").write_bytes(b"ZERO")
    with pytest.raises(CorruptArtefactError, match=r"parts/0\.bin is damaged"):
        artefact.checked_path("parts/0.bin")
    with pytest.raises(CorruptArtefactError, match=r"parts/0\.bin is damaged"):
        artefact.read_checked("parts/0.bin")
    assert artefact.read_checked("parts/1.bin") == b"one"
    (tmp_path / "a" / "stray").write_bytes(b"")
    with pytest.raises(CorruptArtefactError, match="no file 'stray' in its manifest"):
        artefact.checked_path("stray")


def test_an_artefact_of_another_schema_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(CorruptArtefactError, match="schema 99; this version reads 1"):
        read_manifest(str(tmp_path / "a"))


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(tmp_path: Path) -> None:
    whole = make(tmp_path / "a").manifest
    path = tmp_path / "a" / MANIFEST
    data = path.read_bytes()
    num_found = 0
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 7]) + data[at + 1 :])
        try:
            assert read_manifest(str(tmp_path / "a")) == whole
        except CorruptArtefactError:
            num_found += 1
    assert num_found > len(data) // 2
    path.write_text(json.dumps({name: value for name, value in json.loads(data).items() if name != "seal"}))
    assert read_manifest(str(tmp_path / "a")) is not None, "manifests of versions without seals are read"


def test_commit_takes_the_named_files_only(tmp_path: Path) -> None:
    output = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS)
    output.folder.write_bytes("kept", b"1")
    output.folder.write_bytes("scratch", b"2")
    assert set(output.commit(counts={}, files=["kept"]).manifest.files) == {"kept"}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6), st.randoms())
def test_the_id_hash_does_not_depend_on_order(ids: list[str], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(ids)
    random.shuffle(shuffled)
    assert hash_ids(shuffled) == hash_ids(ids)
    assert hash_ids([*ids, "one more"]) != hash_ids(ids)


def test_the_id_hash_tells_borders_between_ids() -> None:
    assert hash_ids(["ab", "c"]) != hash_ids(["a", "bc"])
    assert hash_ids(["a\nb"]) != hash_ids(["a", "b"])


def test_two_jobs_may_take_the_same_output(tmp_path: Path) -> None:
    """Both write the same bytes under the same names, each file whole, so whoever is last changes nothing."""
    one = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS)
    two = begin_output(str(tmp_path / "a"), "thing", Made(), INPUTS)
    assert one.finished is None and two.finished is None
    for output in (one, two):
        output.folder.write_bytes("part", b"same")
    first = one.commit(counts={"parts": 1})
    second = two.commit(counts={"parts": 1})
    assert first.manifest.files == second.manifest.files
    assert open_artefact(str(tmp_path / "a"), "thing", verify=True).fingerprint == first.fingerprint
    assert not Folder(str(tmp_path / "a")).exists("started.json")
