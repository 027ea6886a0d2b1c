"""deploy/SECURITY.md names tests; they are there."""

import re

from conftest import ROOT


def test_tests_that_are_named_exist():
    page = (ROOT / "deploy" / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w./-]+)::(\w+)`", page)
    assert len(named) > 20
    for file, name in named:
        path = ROOT / file
        assert path.is_file(), file
        assert re.search(rf"\b{name}\b", path.read_text()), f"{file} has no {name}"


def test_every_defence_has_a_test():
    rows = [line for line in (ROOT / "deploy" / "SECURITY.md").read_text()
            .split("## Defences")[1].split("## What is left")[0].splitlines()
            if line.startswith("|") and not line.startswith(("|---", "| against"))]
    assert len(rows) > 10
    for row in rows:
        assert "::" in row.split("|")[3], f"no test: {row}"
