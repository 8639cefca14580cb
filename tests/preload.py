"""What the server of :mod:`tests.ranks` imports before it forks: all that a training worker imports."""

import importlib
import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")
for name in ("chatsearch.train.loop", "deepspeed"):
    importlib.import_module(name)
