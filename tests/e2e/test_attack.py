"""Attacks as tests/attack/attack.py makes them, small: the server stays small, and answers others."""

import contextlib
import os
import pathlib
import sys

import pytest
from conftest import ROOT, SANITIZED

sys.path.insert(0, str(ROOT / "tests" / "attack"))
import attack  # noqa: E402

MAX_RISE_MIB = 32
# Who may make calls may have two requests of 15 MiB read at once, beside the budget, and malloc still
# has what the two before them took.
MAX_READ_MIB = 4 * 16
# A record of TLS is encrypted as a whole: its 16 KiB may begin a thousand calls before any is decided.
MAX_RECORD_MIB = 64
SECONDS, CONNECTIONS = 1.5, 16
ATTACKS = attack.attacks()


@pytest.fixture(scope="module", params=[False, True], ids=["open", "tokens"])
def targets(request, tmp_path_factory):
    """Servers by whether they speak TLS."""
    options = ["--memory", "256MiB", "--metrics", "0"]
    folder = tmp_path_factory.mktemp("attack")
    if request.param:
        (folder / "tokens").write_text(f"alice {'ab' * 32}\n")
        options += ["--tokens", folder / "tokens"]
    with contextlib.ExitStack() as stack:
        yield {tls: stack.enter_context(attack.target(folder / str(tls), tls, *options))
               for tls in (False, True)}


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encrypted")
    (folder / "tokens").write_text(f"alice {'ab' * 32}\n")
    with attack.target(folder, True, "--memory", "256MiB", "--tokens", folder / "tokens") as made:
        yield made


@pytest.mark.parametrize("name", [name for name in ATTACKS if not ATTACKS[name].tls])
def test_memory_stays_over_tls(encrypted, name):
    server, ask = encrypted
    result = attack.run(server, ask, ATTACKS[name], CONNECTIONS, SECONDS, rest_seconds=0, over_tls=True)
    assert result.sent_mib > 0
    if not SANITIZED:
        begins_calls = "calls" in name or name in ("half messages", "references in whole blocks")
        assert result.rose_mib < MAX_RISE_MIB + (MAX_RECORD_MIB if begins_calls else 0), vars(result)


@pytest.mark.parametrize("name", ATTACKS)
def test_memory_stays(targets, name, request):
    server, ask = targets[ATTACKS[name].tls]
    result = attack.run(server, ask, ATTACKS[name], CONNECTIONS, SECONDS, rest_seconds=0)
    assert result.sent_mib > 0
    if not SANITIZED:
        is_let_in = name == "half messages" and "open" in request.node.callspec.id
        assert result.rose_mib < MAX_RISE_MIB + (MAX_READ_MIB if is_let_in else 0), vars(result)
