"""Lists on the command line."""


def numbers(text: str) -> list[int]:
    """The numbers of a list with commas."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """The names of a list with commas."""
    return text.split(",")
