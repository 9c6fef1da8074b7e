"""Words of sentences that depend on a number."""


def plural(number: int, noun: str) -> str:
    """Return the number and the noun, such as "1 episode" and "2 episodes"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def between(least: int, most: int, noun: str) -> str:
    """Return a range with the noun, such as "3 to 5 rows", of equal ends "5 rows"."""
    return plural(most, noun) if least == most else f"{least} to {most} {noun}s"
