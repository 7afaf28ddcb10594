"""State machines as tables: ``{state: {event: (next state, action)}}``.

Rules:

- Everything about a machine's transitions stands in its table, beside the states and events that it names.
  What applies the table adds no transition of its own.
- An action is a name: the table does nothing. Whoever owns the machine does what the action says; without an
  action the state alone changes.
- A pair that is not in the table is refused: the state stays, nothing is done, and it is counted under
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
    """The next state and what is to be done; ``None`` when the table refuses, which ``refused`` counts."""
    found = table[state].get(event)
    if found is None:
        refuse(refused, event.name, state.name)
    return found


def refuse(refused: Counter[str], event: str, state: str) -> None:
    """Count an event that came in a state whose row does not have it."""
    refused[f"{event.lower()}_while_{state.lower()}"] += 1
