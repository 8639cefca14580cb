"""The retrieval model: vision, perceiver, language, queue, objective and bundles."""
