"""YAML whose every value remembers its line, for errors such as `recipe.yaml:12: ...`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trueup.errors import UserError

DEEPEST = 12  # a recipe has five levels
MOST = 20_000  # values; aliases can multiply a small file without end


@dataclass(frozen=True)
class Located:
    """A value of the file and where it stands.

    Fields: value is a scalar, a list of Located, or a dict from names to Located.
    """

    value: Any
    place: str

    def error(self, text: str) -> UserError:
        """The error that this value causes."""
        return UserError(f"{self.place}: {text}")

    def plain(self) -> Any:
        """The value without its lines."""
        if isinstance(self.value, dict):
            return {name: item.plain() for name, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def read_yaml(path: Path) -> Located:
    """The file's one document.

    Raises: UserError where the file cannot be read, is empty, or is no plain YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise UserError(f"{path}: the file is empty")
        return _Reader(path, loader).located(node, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error


class _Reader:
    """Turns nodes into values."""

    def __init__(self, path: Path, loader: Any) -> None:
        self.path = path
        self.loader = loader
        self.count = 0

    def located(self, node: Any, depth: int) -> Located:
        """One node with all below it."""
        place = f"{self.path}:{node.start_mark.line + 1}"
        self.count += 1
        if depth > DEEPEST or self.count > MOST:
            raise UserError(f"{place}: nested too deeply for a recipe")
        if isinstance(node, yaml.MappingNode):
            return Located(self._mapping(node, depth), place)
        if isinstance(node, yaml.SequenceNode):
            return Located([self.located(item, depth + 1) for item in node.value], place)
        value = self.loader.construct_object(node)
        if not isinstance(value, (str, int, float, bool, type(None))):
            value = node.value  # a date is a text here
        return Located(_number(value), place)

    def _mapping(self, node: Any, depth: int) -> dict[str, Located]:
        """The names and values of one mapping; no name may stand twice."""
        found: dict[str, Located] = {}
        for key, item in node.value:
            place = f"{self.path}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or not isinstance(key.value, str):
                raise UserError(f"{place}: a name must be plain text")
            if key.value in found:
                raise UserError(f"{place}: {key.value!r} stands twice")
            value = self.located(item, depth + 1)
            found[key.value] = Located(value.value, place)
        return found


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; here it is the number that everybody means."""
    if isinstance(value, str):
        mantissa, sign, exponent = value.lower().partition("e")
        digits = exponent.removeprefix("-").removeprefix("+")
        if sign and digits.isdigit() and mantissa.lstrip("+-").replace(".", "", 1).isdigit():
            return float(value)
    return value
