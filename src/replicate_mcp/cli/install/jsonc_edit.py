"""Edits of a single value in JSON text that leave the rest of the text unchanged.

Comments and trailing commas are accepted and kept, as in editors' configuration files.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
"""Path to a value: keys of objects and indexes of arrays."""

_BETWEEN = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)


_DOUBLE_BACKSLASH = r": a backslash is written twice in JSON, like C:\\Users"


class NotJson(ValueError):
    """Invalid or ambiguous JSON; the message gives the position without quoting the text."""


@dataclass(frozen=True, slots=True)
class Node:
    """Value with its position in the text.

    Attributes:
        start: index of its first character.
        end: index after its last character.
        members: members of an object or array; None for other values.
    """

    start: int
    end: int
    value: Any
    members: "tuple[Member, ...] | None" = None

    def find(self, step: str | int) -> "Member | None":
        """Return the member with this key or index, or None.

        Raises:
            NotJson: the key occurs more than once; programs differ in which one they use.
        """
        if isinstance(step, int):
            return self.members[step] if self.members and step < len(self.members) else None
        found = [member for member in self.members or () if member.key == step]
        if len(found) > 1:
            raise NotJson(f'it has "{step}" {len(found)} times')
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Member:
    """Member of an object or array.

    Attributes:
        key: key in an object; None in an array.
        comma: index of the comma after it; None without one.
    """

    start: int
    key: str | None
    node: Node
    comma: int | None


def read(text: str) -> Node:
    """Parse JSON with comments and trailing commas, keeping positions.

    Raises:
        NotJson: the text cannot be parsed.
    """
    try:
        node = _value(text, _skip(text, 0))
        end = _skip(text, node.end)
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    if end != len(text):
        raise _at(text, end)
    return node


def value_at(text: str, path: Path) -> Any:
    """Return the value at `path`, or None."""
    node = _node_at(read(text), path)
    return None if node is None else node.value


def set_value(text: str, path: Path, value: Any) -> str:
    """Return the text with `value` at `path`, creating missing objects on the path.

    Raises:
        NotJson: the text cannot be parsed, or a value on the path is not an object.
    """
    root = node = read(text)
    for depth, step in enumerate(path):
        if not isinstance(node.value, dict):
            raise NotJson(f'"{path[depth - 1]}" is no object' if depth else "it is no object")
        member = node.find(step)
        if member is None:
            for later in reversed(path[depth + 1 :]):
                value = {later: value}
            return _insert(text, root, node, str(step), value)
        node = member.node
    if node.value == value:
        return text
    return text[: node.start] + _rendered(text, root, value, node.start) + text[node.end :]


def append(text: str, path: Path, value: Any) -> str:
    """Return the text with `value` appended to the array at `path`, which is created if missing.

    Raises:
        NotJson: the text cannot be parsed, or the value at `path` is not an array.
    """
    root = read(text)
    node = _node_at(root, path)
    if node is None:
        return set_value(text, path, [value])
    if not isinstance(node.value, list):
        raise NotJson(f'"{path[-1]}" is no array')
    return _insert(text, root, node, None, value)


def remove(text: str, path: Path) -> str:
    """Return the text without the member at `path`; unchanged if it is missing."""
    parent = _node_at(read(text), path[:-1])
    member = None if parent is None else parent.find(path[-1])
    if parent is None or parent.members is None or member is None:
        return text
    start = len(text[: member.start].rstrip())
    end = member.node.end if member.comma is None else member.comma + 1
    text = text[:start] + text[end:]
    position = parent.members.index(member)
    if member.comma is None and position > 0 and (comma := parent.members[position - 1].comma):
        text = text[:comma] + text[comma + 1 :]
    if len(parent.members) == 1:
        # Close up an object that holds nothing else, not even a comment.
        text = text[:start] + re.sub(r"^\s*(?=[}\]])", "", text[start:])
    return text


def scalars(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Yield every value that is neither object nor array, with its path."""
    if node.members is None:
        yield path, node
        return
    for position, member in enumerate(node.members):
        step = position if member.key is None else member.key
        yield from scalars(member.node, (*path, step))


def _node_at(node: Node, path: Path) -> Node | None:
    for step in path:
        member = node.find(step)
        if member is None:
            return None
        node = member.node
    return node


def _insert(text: str, root: Node, parent: Node, key: str | None, value: Any) -> str:
    """Insert a member after the last one, in the layout of the existing members."""
    label = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
    last = parent.members[-1] if parent.members else None
    trailing = "," if last is not None and last.comma is not None else ""
    comma = "," if last is not None and last.comma is None else ""
    closing = parent.end - 1
    if last is not None and "\n" not in text[parent.start : last.start]:
        inline = f" {label}{json.dumps(value, ensure_ascii=False)}{trailing}"
        at = last.node.end if last.comma is None else last.comma + 1
        return text[:at] + comma + inline + text[at:]
    newline = _newline(text)
    outer = _indent(text, parent.start)
    first = parent.members[0] if parent.members else None
    indent = outer + _unit(text, root) if first is None else _indent(text, first.start)
    at = len(text[:closing].rstrip())
    end = "" if "\n" in text[at:closing] else newline + outer
    body = label + _rendered(text, root, value, indent=indent) + trailing
    behind_last = at if last is None else last.node.end
    return (
        text[:behind_last] + comma + text[behind_last:at] + newline + indent + body + end
    ) + text[at:]


def _rendered(
    text: str, root: Node, value: Any, at: int | None = None, indent: str | None = None
) -> str:
    if indent is None:
        indent = _indent(text, at or 0)
    rendered = json.dumps(value, indent=_unit(text, root), ensure_ascii=False)
    return rendered.replace("\n", _newline(text) + indent)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str, root: Node) -> str:
    """Return one level of the text's indentation, by default two spaces."""
    if root.members and "\n" in text[root.start : root.members[0].start]:
        return _indent(text, root.members[0].start) or "  "
    return "  "


def _indent(text: str, at: int) -> str:
    """Return the leading white space of the line that contains index `at`."""
    line = text[text.rfind("\n", 0, at) + 1 :]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _skip(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int) -> Node:
    if text[at : at + 1] in ("{", "["):
        return _container(text, at)
    try:
        value, end = _SCALARS.raw_decode(text, at)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Invalid \\"):
            raise _at(text, error.pos, _DOUBLE_BACKSLASH) from None
        raise _at(text, at) from None
    except ValueError:
        raise _at(text, at) from None
    return Node(at, end, value)


def _container(text: str, start: int) -> Node:
    is_object = text[start] == "{"
    closing = "}" if is_object else "]"
    members: list[Member] = []
    at = _skip(text, start + 1)
    while text[at : at + 1] != closing:
        if members and members[-1].comma is None:
            raise _at(text, at)
        member_at, key = at, None
        if is_object:
            if text[at : at + 1] != '"':
                raise _at(text, at)
            name = _value(text, at)
            key, at = name.value, _skip(text, name.end)
            if text[at : at + 1] != ":":
                raise _at(text, at)
            at = _skip(text, at + 1)
        node = _value(text, at)
        at = _skip(text, node.end)
        comma = at if text[at : at + 1] == "," else None
        members.append(Member(member_at, key, node, comma))
        if comma is not None:
            at = _skip(text, at + 1)
    value: Any = (
        {member.key: member.node.value for member in members}
        if is_object
        else [member.node.value for member in members]
    )
    return Node(start, at + 1, value, tuple(members))


def _at(text: str, at: int, advice: str = "") -> NotJson:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return NotJson(f"it is no JSON at line {line}, column {column}{advice}")


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_SCALARS = json.JSONDecoder(parse_constant=_refuse)
