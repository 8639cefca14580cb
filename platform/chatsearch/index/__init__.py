"""Feature store and FAISS index of a gallery."""
