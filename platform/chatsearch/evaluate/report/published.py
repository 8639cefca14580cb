"""What the paper prints, to stand beside ours.

Source: arXiv 2410.18715, Tables 2, 4 and 6. For Figures 5 and 6 it prints no numbers.
"""

from __future__ import annotations

from chatsearch.evaluate.seeds import DEPTHS, SUB_TASKS
from chatsearch.evaluate.table import ReportTable

_SCALE = "another scale (7B parameters, its own data and galleries), so its numbers are not to be compared with ours one by one"

_CHATSEARCH = ("", *(f"{task} {depth}" for task in SUB_TASKS for depth in DEPTHS), "Avg.")
_NONE = ("-", "-", "-")

TABLE_2 = ReportTable(
    f"Table 2 as printed in the paper, at {_SCALE}",
    _CHATSEARCH,
    (
        ("random", "0.02", "0.1", "0.2", "0.01", "0.05", "0.1", "0.01", "0.05", "0.1", "0.07"),
        ("CLIP-i", *_NONE, "9.65", "20.96", "28.05", "9.65", "20.96", "28.05", "19.55"),
        ("CLIP-t", "15.84", "34.46", "45.10", "14.15", "30.60", "39.56", "12.69", "27.19", "35.80", "28.38"),
        ("CLIP-ti", *_NONE, "12.33", "26.81", "35.15", "13.18", "28.56", "37.07", "25.52"),
        ("FROMAGe", "15.94", "36.76", "48.60", "12.56", "29.65", "39.65", "14.36", "32.58", "42.80", "30.32"),
        ("ChatSearcher", "27.38", "52.48", "63.50", "35.54", "61.16", "71.57", "37.90", "64.22", "74.06", "54.20"),
    ),
)
TABLE_4 = ReportTable(
    f"Table 4 as printed in the paper, at {_SCALE}",
    ("", *(f"Flickr30K {depth}" for depth in DEPTHS), *(f"COCO {depth}" for depth in DEPTHS)),
    (
        ("CLIP", "68.7", "90.6", "95.2", "37.8", "62.4", "72.2"),
        ("ChatSearcher, frozen LLM", "58.5", "84.4", "90.3", "33.7", "59.6", "70.5"),
        ("ChatSearcher, no queue", "57.2", "83.4", "89.3", "31.7", "58.1", "69.2"),
        ("ChatSearcher", "68.0", "87.0", "92.2", "41.7", "67.5", "76.9"),
    ),
)
TABLE_6 = ReportTable(
    f"Table 6 as printed in the paper, at {_SCALE}",
    _CHATSEARCH,
    (
        ("ChatSearch only", "27.10", "52.00", "63.12", "34.86", "61.02", "71.56", "35.03", "62.03", "72.12", "53.09"),
        ("+ LLaVA-150k", "27.64", "52.54", "63.38", "35.13", "61.20", "71.59", "35.59", "62.51", "72.11", "53.52"),
        ("t only + both", "28.58", "52.86", "63.82", "29.25", "52.84", "63.32", "30.86", "55.82", "65.75", "49.23"),
        ("all three", "27.38", "52.48", "63.50", "35.54", "61.16", "71.57", "37.90", "64.22", "74.06", "54.20"),
    ),
)
