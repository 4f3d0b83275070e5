"""`light-llm recipes`: list the recipes of the package, or print the file of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.padding import Padding
from rich.text import Text

from ..config import about_recipe, recipe_names, recipe_text
from .args import PositionalArgs, Words, parse, words_arg
from .output import print_rich

_POSITIONAL = PositionalArgs("recipe", "light-llm recipes my-text > my.toml", max_count=1)


@dataclass(frozen=True)
class RecipesFlags:
    """The flags of `recipes`."""

    name: Annotated[Words, words_arg("[NAME]", "print the file of this recipe"), _POSITIONAL] = ()


def command(argv: Sequence[str]) -> int:
    """List the recipes, or print the one that was named."""
    about = "List the recipes, which are files of tested settings. With a NAME, print that file, to copy and change."
    flags, _ = parse(RecipesFlags, argv, prog="light-llm recipes", about=about)
    if flags.name:
        # Printed exactly, to be redirected into a file.
        print(recipe_text(flags.name[0]), end="")
        return 0
    for name in recipe_names():
        recipe = about_recipe(name)
        print_rich(
            Text.assemble((name, "bold"), "  ", recipe.title),
            Padding(Text(recipe.expect, style="dim"), (0, 0, 1, 2), expand=False),
        )
    print_rich("train with one  light-llm train --config NAME", "make your own   light-llm recipes my-text > my.toml")
    return 0
