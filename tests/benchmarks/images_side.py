"""A process that checks picture files as every door of the platform does, and says what that took. One line of JSON a file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from chatsearch.corpora.images import check_image
from chatsearch.errors import BadImageError
from chatsearch.index.watch import PeakMemory
from PIL import Image


def main() -> int:
    """Of every file of a folder, in order: the seconds, the peak of memory above what there was before, and the refusal."""
    Image.preinit()  # codecs are loaded once a process, not by the first file
    for path in sorted(Path(sys.argv[1]).iterdir()):
        data = path.read_bytes()
        memory, said = PeakMemory(), ""
        began = time.perf_counter()
        try:
            check_image(data)
        except BadImageError as error:
            said = str(error)
        took = time.perf_counter() - began
        print(json.dumps([path.name, took, memory.peak_bytes(), said]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
