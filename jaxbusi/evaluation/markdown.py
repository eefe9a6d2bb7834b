"""Text inside Markdown."""

import re


def literal(text: str) -> str:
    """Text of which nothing is Markdown or HTML: an error may quote the name of any file."""
    return re.sub(r"([\\`*_\[\]<>|&~#!])", r"\\\1", text)
