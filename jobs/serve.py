"""Serve the chat page and the HTTP API until Ctrl-C.

Model and index are checked to belong together before anything is started.
"""

from __future__ import annotations

from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import serve as recipes
from jobs.recipes.serve import ServeConfig


def work(config: ServeConfig, tracker: Tracker) -> Made:
    """Serve in this process; returns after Ctrl-C."""
    from serve.run import serve_forever

    serve_forever(config.args, config.host, config.port)
    return Made(f"http://{config.host}:{config.port}", {})


JOB = Job("serve", recipes, default="tiny", kind=None, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
