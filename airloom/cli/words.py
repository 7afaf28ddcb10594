"""How the words of a command are read, global options anywhere, an id with or without its option's name; and
how its help is broken into lines.

Rule: nothing is guessed. An option that the command itself has is the command's; a word is taken for an id
only where the command has an option for one.
"""

from collections.abc import Sequence
from inspect import cleandoc
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

ID_OPTIONS = ("--sim-id", "--group-id", "--yyyy-mm")
"""Options whose value may stand by itself, as `sims get 8981100000000000001`."""


class Command(TyperCommand):
    """A command that takes an id as a word of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give the first word that is no option's value to the option that wants an id."""
        takes_value = _options_with_value(self)
        wanted = next((name for name in ID_OPTIONS if name in takes_value), None)
        given = [arg.partition("=")[0] for arg in args]
        at = _first_word(args, takes_value)
        if wanted is not None and wanted not in given and at is not None:
            args = [*args[:at], wanted, *args[at:]]
        return super().parse_args(ctx, args)


class Root(TyperGroup):
    """The program: its options may also stand after the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring its own options to the front."""
        return super().parse_args(ctx, hoisted(self, args))


def unwrap_help(group: typer.Typer) -> None:
    """Make a paragraph of each command's docstring one line, which the terminal's width breaks."""
    for command in group.registered_commands:
        paragraphs = cleandoc(command.help or getattr(command.callback, "__doc__", "") or "").split("\n\n")
        command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            unwrap_help(inner.typer_instance)


def hoisted(root: Any, args: Sequence[str]) -> list[str]:
    """The arguments with the root's options first, but those that the command has too."""
    own = _options_with_value(root)
    command: Any = root
    front: list[str] = []
    rest: list[str] = []
    left = list(args)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += [word, *left]
            break
        name, equals, _ = word.partition("=")
        if name in own and (command is root or name not in _options_with_value(command)):
            front += [word] if equals or not left else [word, left.pop(0)]
            continue
        rest.append(word)
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
        elif not equals and name in _options_with_value(command) and left:
            rest.append(left.pop(0))
    return front + rest


def _options_with_value(command: Any) -> frozenset[str]:
    return frozenset(
        name
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.is_flag
        for name in parameter.opts
    )


def _first_word(args: Sequence[str], takes_value: frozenset[str]) -> int | None:
    """Where the first argument stands that is neither an option nor the value of one."""
    is_value = False
    for at, arg in enumerate(args):
        if is_value:
            is_value = False
        elif arg == "--":
            return None
        elif arg.startswith("-"):
            is_value = arg in takes_value
        else:
            return at
    return None
