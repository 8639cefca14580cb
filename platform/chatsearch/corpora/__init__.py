"""Readers of published datasets and the synthetic scenes world, all yielding documents."""
