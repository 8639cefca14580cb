"""Names of the files of models, for readers that load no torch."""

from __future__ import annotations

from chatsearch.data.tokenizer import CONFIG_FILE, TOKENIZER_FILE

CONFIG = "config.json"
"""In a bundle: the searcher's configuration."""
SHAPES = "weights.json"
"""In starting weights: shapes of the parts."""
VISION = "vision.safetensors"
"""In both: the frozen encoder's network."""
SEARCHER = "searcher.safetensors"
PROJECTION = "projection.safetensors"
"""In a bundle, alone, so that the index reads nothing else: M_Q, (d, D), under :data:`M_Q`."""
M_Q = "gallery_head.weight"
LANGUAGE = "language.safetensors"
PERCEIVER = "perceiver.safetensors"
BUNDLE_FILES = (CONFIG, SEARCHER, PROJECTION, VISION, TOKENIZER_FILE, CONFIG_FILE)
"""All files of a bundle besides its manifest."""
