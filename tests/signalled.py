"""A command that is sent a signal as soon as it says something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence


def end_by(
    number: signal.Signals,
    line: str,
    script: str,
    arguments: Sequence[str],
    variables: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a Python script until a line of it begins with ``line``, send the signal; its exit code and all it said.

    Ctrl-C is heeded even where whoever started the tests ignores it. Raises TimeoutExpired where the script closes its output and stays.
    """
    heeding = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{script}"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | dict(variables or {})
    command = [sys.executable, "-c", heeding, *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        try:
            said = []
            for text in run.stdout:
                said.append(text)
                if text.startswith(line):
                    run.send_signal(number)
                    break
            said.append(run.stdout.read())
            return run.wait(60), "".join(said)
        finally:
            run.kill()
