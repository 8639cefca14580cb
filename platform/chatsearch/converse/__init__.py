"""The engine of a dialogue: decode, retrieve, pick, rewind."""
