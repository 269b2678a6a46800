"""docs/fidelity.md: every item has a row, and what the row names is there."""

from __future__ import annotations

import ast
import re

import pytest
from support import ROOT

PAGE = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## (\d+)\. (.*?)(?=^## )", re.M | re.S)
SECTIONS = {int(number): body for number, body in SECTION.findall(PAGE)}


def definitions(path: str) -> dict[str, str]:
    """Every function and class of a file as `Class.name`, with its docstring."""
    found: dict[str, str] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                found[prefix + child.name] = ast.get_docstring(child) or ""
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")), "")
    return found


def numbers(docstring: str) -> set[int]:
    """The items a docstring names: `Fidelity item 3`, `Fidelity items 28-29`, `5, 7 and 9`."""
    found: set[int] = set()
    for listed in re.findall(r"[Ff]idelity items?\s+([\d,\sand-]+)", docstring):
        for begin, end in re.findall(r"(\d+)(?:\s*-\s*(\d+))?", listed):
            found |= set(range(int(begin), int(end or begin) + 1))
    return found


def test_every_item_has_a_section() -> None:
    assert sorted(SECTIONS) == list(range(1, 34))


@pytest.mark.parametrize("item", range(1, 34))
def test_the_tests_of_an_item_exist_and_name_it(item: int) -> None:
    named = re.findall(r"^- `(tests/[\w/]+\.py)` (\w+)$", SECTIONS[item], re.M)
    assert named, f"item {item} names no test"
    for path, name in named:
        assert item in numbers(definitions(path)[name]), f"{path}::{name} does not name {item}"


@pytest.mark.parametrize("item", range(1, 34))
def test_the_code_of_an_item_is_where_the_page_says(item: int) -> None:
    places = re.search(r"^Code: (.*)$", SECTIONS[item], re.M)
    assert places, f"item {item} names no code"
    for path, name in re.findall(r"`([\w/]+\.py)` ([\w.]+)", places[1]):
        assert name in definitions(path), f"{path} has no {name}"
