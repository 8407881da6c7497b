"""The group of verbs, which answers a mistyped one with the nearest that it knows."""

from typing import Any

from typer.core import TyperGroup

from trueup.errors import unknown_name


class VerbGroup(TyperGroup):
    """Typer's group, whose unknown verbs end in the house's one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that the first word names.

        Raises: UserError where it names none.
        """
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown_name("verb", args[0], self.commands)
        return super().resolve_command(ctx, args)
