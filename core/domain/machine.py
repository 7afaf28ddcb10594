"""State machines as tables: ``{state: {event: (next state, action)}}``.

Rules:

- All transitions of a machine are in its table. The code that applies the table adds none.
- An action is a name; the owner of the machine carries it out. Without an action only the state changes.
- A pair that is not in the table is refused: the state stays, nothing is done, and it is counted as
  ``EVENT_while_STATE``.
"""

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)
Action = TypeVar("Action", bound=Enum)

Table = Mapping[State, Mapping[Event, tuple[State, Action | None]]]


def step(
    table: Table[State, Event, Action], state: State, event: Event, refused: Counter[str]
) -> tuple[State, Action | None] | None:
    """The next state and the action; ``None`` when the table refuses, which ``refused`` counts."""
    found = table[state].get(event)
    if found is None:
        refuse(refused, event.name, state.name)
    return found


def refuse(refused: Counter[str], event: str, state: str) -> None:
    """Count an event that the state's row does not have."""
    refused[f"{event.lower()}_while_{state.lower()}"] += 1
