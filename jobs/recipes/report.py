"""What the ``report`` job puts on its page."""

from __future__ import annotations

from chatsearch.evaluate.report.config import ReportConfig


def scenes() -> ReportConfig:
    """Tables 2, 4, 6 and figures 5, 6 from the sweeps on the scenes world."""
    return ReportConfig()
