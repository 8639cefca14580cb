"""What the ``report`` job is told. Light: nothing heavy is imported."""

from __future__ import annotations

from chatsearch.config import Config, runtime


class ReportConfig(Config):
    """Which sweep is behind which table or figure: a recipe of the ``sweep`` job, or the key of one of its runs."""

    table2: str = "scenes_table2"
    figure5: str = "scenes_queue"
    table4: str = "scenes_ablations"
    table6: str = "scenes_instruction_mix"
    figure6: str = "scenes_data_scale"
    output: str = runtime("runs/report")
    """Folder of ``report.md``, its figures and ``report.json``. What an earlier report left there is replaced."""
