"""The gallery's pictures, from the document shards that hold them."""

from __future__ import annotations

from collections.abc import Sequence

from chatsearch.data.shards import ImageStore
from chatsearch.errors import CorruptArtefactError, MissingInputError


class GalleryPictures:
    """Encoded pictures of one gallery by content hash; several shard sets are searched in order."""

    def __init__(self, uris: Sequence[str]) -> None:
        self._stores = [ImageStore.open(uri) for uri in uris]

    def get(self, content_hash: str) -> bytes:
        """The encoded bytes of one picture.

        Raises:
            MissingInputError: the gallery has no such picture. Where it was looked for is nobody's business outside.
            CorruptArtefactError: it should have it, but the file that holds it is gone.
        """
        for store in self._stores:
            if content_hash in store:
                try:
                    return store.get(content_hash)
                except MissingInputError as error:
                    raise CorruptArtefactError(str(error)) from error
        raise MissingInputError(f"The gallery has no picture {content_hash[:64]!r}.")
