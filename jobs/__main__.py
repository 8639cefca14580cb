"""``python -m jobs``: what there is to run."""

from __future__ import annotations

from chatsearch.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["jobs"]))
