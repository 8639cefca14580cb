"""Job entry points: ``python -m jobs.NAME --recipe RECIPE``."""
