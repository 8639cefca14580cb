"""Kinds of artefacts, as their manifests name them."""

from __future__ import annotations

DOCUMENT_SHARDS = "document-shards"
MODEL_WEIGHTS = "model-weights"
MODEL_BUNDLE = "model-bundle"
FEATURE_STORE = "feature-store"
GALLERY_INDEX = "gallery-index"
FOLDED_NORMS = "folded-norms"
QUERY_VECTORS = "query-vectors"
DUAL_ENCODER = "dual-encoder"
FROMAGE = "fromage"
