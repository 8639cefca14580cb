"""Tiny models, tiny galleries and local servers for tests and the quickstart."""
