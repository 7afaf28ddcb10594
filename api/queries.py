"""Unknown query parameters are refused: ignored, they would seem to have an effect."""

from collections.abc import Collection, Iterable

NAME_CHARACTERS_MAX = 64
"""Of a name that is repeated in a refusal."""


def unknown_parameter(asked: Iterable[str], known: Collection[str]) -> str:
    """Why a query is refused; empty when each of its parameters is known."""
    for name in asked:
        if name not in known:
            offered = f"known here: {', '.join(known)}" if known else "none is known here"
            shown = name[:NAME_CHARACTERS_MAX].encode(errors="backslashreplace").decode()
            return f"{shown}: unknown query parameter; {offered}"
    return ""


def demand_known(asked: Iterable[str], *known: str) -> None:
    """Raise ``ValueError`` for a parameter that is not known."""
    if unknown := unknown_parameter(asked, known):
        raise ValueError(unknown)
