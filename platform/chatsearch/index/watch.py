"""How much memory a piece of work took at its most: Linux tells the highest resident size since it was last asked to forget it."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")


class PeakMemory:
    """Resident memory over that of the beginning, mapped files included. Where the system does not tell, it is 0."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            _FORGET.write_text("5")  # else an earlier and higher peak of this process would be taken for this one's
        self._before = _kibibytes("VmRSS")

    def peak_bytes(self) -> int:
        """The highest so far."""
        return max(0, _kibibytes("VmHWM") - self._before) * 1024


def _kibibytes(name: str) -> int:
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
