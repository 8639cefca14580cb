"""Requests and questions that turn a captioned picture into a dialogue of one round."""

from __future__ import annotations

FIND_REQUESTS = (
    "Find a picture of {}.",
    "Find an image that shows {}.",
    "Find me a photo of {}.",
    "Show me a picture of {}.",
    "Show me {}.",
    "I am looking for a picture of {}.",
    "I am looking for {}.",
    "Can you find a picture of {}?",
    "Could you show me an image of {}?",
    "Do you have a picture of {}?",
    "Is there a photo of {}?",
    "I need a picture of {}.",
    "I would like to see {}.",
    "I want an image with {}.",
    "Search for {}.",
    "Please find {}.",
    "Please get me a photo of {}.",
    "Get me a picture that shows {}.",
    "Which picture shows {}?",
    "Where is the picture of {}?",
    "Help me find a photo of {}.",
    "The picture I have in mind shows {}.",
)
"""A caption goes into the braces."""

CAPTION_QUESTIONS = (
    "What does this picture show?",
    "What do you see in this picture?",
    "Describe this picture.",
    "Describe the image in one sentence.",
    "What is in this photo?",
    "What is happening here?",
    "Give this picture a caption.",
    "Tell me what this image shows.",
    "Can you describe this photo?",
    "What is this?",
)


def as_phrase(caption: str) -> str:
    """A caption in mid-sentence: no full stop at the end, no capital on a leading article."""
    text = " ".join(caption.split()).rstrip(" .")
    first, space, rest = text.partition(" ")
    # Names keep their capitals: only words that are certainly none are lowered.
    return first.lower() + space + rest if first in {"A", "An", "The", "Two", "Three", "Some", "Several"} else text
