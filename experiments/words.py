"""Words for numbers."""


def count(n: int, what: str) -> str:
    """``"1 iteration"``, ``"2 iterations"``."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
