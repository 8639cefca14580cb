"""Conversational image retrieval: data, training, indices, dialogue and evaluation on Ray."""

__version__ = "0.1.0"
