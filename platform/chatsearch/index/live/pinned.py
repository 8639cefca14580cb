"""Opening the artefacts that a state names: first the manifest is what the state says, then the files are what the manifest says."""

from __future__ import annotations

import hashlib

from chatsearch.errors import CorruptArtefactError
from chatsearch.index.live.state import Pinned
from chatsearch.manifest import MANIFEST, Artefact, open_artefact
from chatsearch.storage import Folder, is_remote


def folder_of(gallery: Folder, uri: str) -> Folder:
    """The folder of an artefact that a state names."""
    return Folder(uri) if is_remote(uri) or uri.startswith("/") else gallery.child(uri)


def pin(artefact: Artefact, uri: str | None = None) -> Pinned:
    """A finished artefact as states name it; ``uri`` where it is not to be its own."""
    digest = hashlib.sha256(artefact.folder.read_bytes(MANIFEST)).hexdigest()
    return Pinned(uri=uri or artefact.uri, fingerprint=artefact.fingerprint, manifest_sha256=digest)


def open_pinned(gallery: Folder, pinned: Pinned, kind: str) -> Artefact:
    """Open an artefact that a state names.

    Raises:
        MissingInputError: it is gone.
        CorruptArtefactError: its manifest is not the one that was committed, or a file is missing or of another size.
    """
    folder = folder_of(gallery, pinned.uri)
    actual = hashlib.sha256(folder.read_bytes(MANIFEST)).hexdigest()
    if actual != pinned.manifest_sha256:
        raise CorruptArtefactError(
            f"{folder.path(MANIFEST)} is damaged or was replaced: sha256 {actual[:12]}, the log of gallery {gallery.uri} says "
            f"{pinned.manifest_sha256[:12]}. Restore the file, or roll the gallery back to a version with another base."
        )
    return open_artefact(folder.uri, kind)
