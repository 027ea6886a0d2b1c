"""kill -9 of the server in mid-stream: the client ends with the same bytes as ever.

A proxy kills the server when a random number of bytes has gone to it, which is before the last of
them. QUANTD_TEST_KILLS is the number of rounds.
"""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import quantctl, quantctl_json, running_server
from fault_proxy import FaultProxy, Harm
from safetensors.numpy import save_file

ROUNDS = int(os.environ.get("QUANTD_TEST_KILLS", "50"))
TENSORS, ROWS, COLS = 4, 768, 1024  # 12 MiB
INPUT_BYTES = TENSORS * ROWS * COLS * 4
# Names, arguments of quantctl, flags of the server, least bytes that go to the server.
CASES = {
    "streamed": (["quantize", "--to", "int8:group=128"], [], INPUT_BYTES),
    "buffered": (["quantize", "--to", "int8"], [], INPUT_BYTES),
    "two_passes": (["quantize", "--to", "int8"], ["--tensor-memory", "2816KiB"], 2 * INPUT_BYTES),
    "dequantized": (["dequantize"], [], INPUT_BYTES // 4),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """For each case: the input, and the bytes of the output where nothing is killed."""
    folder = tmp_path_factory.mktemp("expected")
    rng = np.random.default_rng(4)
    model, packed = folder / "model.safetensors", folder / "packed.safetensors"
    save_file({f"layer.{i}": rng.standard_normal((ROWS, COLS), np.float32) for i in range(TENSORS)},
              model)
    quantctl("quantize", model, "-o", packed, "--to", "int8:axis=0")
    made = {}
    for name, (command, _, _) in CASES.items():
        source = packed if command[0] == "dequantize" else model
        out = folder / f"{name}.safetensors"
        quantctl(*command, source, "-o", out)
        made[name] = source, out.read_bytes()
    return made


class Victim:
    """A server that can be killed, and is then replaced by a new one on another port."""

    def __init__(self, stack, folder, args):
        self.stack, self.folder, self.args = stack, folder, args
        self.lock = threading.Lock()
        self.kills = 0
        self.start()

    def start(self):
        self.server = self.stack.enter_context(
            running_server(self.folder / str(self.kills), *self.args))

    def kill(self, restart):
        with self.lock:
            os.kill(self.server.pid, signal.SIGKILL)
            assert self.server.wait() == -signal.SIGKILL
            self.kills += 1
            if restart:
                self.start()

    def address(self):
        with self.lock:  # not while it is being replaced
            return self.server.address


@pytest.mark.parametrize("replica", [False, True], ids=["restarted", "replica"])
def test_kill_in_mid_stream(tmp_path, expected, replica):
    rounds = (ROUNDS + (0 if replica else 1)) // 2  # of both together: ROUNDS
    for number in range(rounds):
        rng = np.random.default_rng(2 * number + replica)
        name = list(CASES)[number % len(CASES)]
        command, flags, least_bytes = CASES[name]
        offset = int(rng.integers(1 << 16, least_bytes - (1 << 16)))
        source, bytes_expected = expected[name]
        folder = tmp_path / f"out-{number}"
        folder.mkdir()
        out = folder / "o.safetensors"
        early = []
        with contextlib.ExitStack() as stack:
            victim = Victim(stack, tmp_path / f"victim-{number}", flags)

            def kill(victim=victim, out=out, early=early):
                early.append(out.exists())
                if replica:
                    proxy.refuse()
                victim.kill(restart=not replica)

            def harms(connection, offset=offset, kill=kill):
                return Harm(call_at=(offset, kill) if connection == 0 else None), Harm()

            proxy = stack.enter_context(FaultProxy(victim.address, harms))
            target = proxy.address
            if replica:
                other = stack.enter_context(running_server(tmp_path / f"other-{number}", *flags))
                target = f"ipv4:{proxy.address},{other.address}"
            report = quantctl_json(*command, source, "-o", out, "--server", target)
        what = f"round {number}: {name}, killed after {offset} bytes"
        assert victim.kills == 1, what
        assert early == [False], f"{what}: the output was there before its end"
        assert out.read_bytes() == bytes_expected, what
        assert list(folder.iterdir()) == [out], what
        if name in ("streamed", "buffered"):
            assert max(tensor["attempts"] for tensor in report["tensors"]) == 2, what


def test_server_that_is_away_for_a_second(tmp_path, expected):
    """The same port, and nobody there for longer than one pause between two attempts."""
    source, bytes_expected = expected["streamed"]
    out = tmp_path / "o.safetensors"
    with contextlib.ExitStack() as stack:
        victim = Victim(stack, tmp_path / "victim", [])
        refusing_until = []

        def kill():
            refusing_until.append(time.monotonic() + 1)
            victim.kill(restart=True)

        def harms(connection):
            if connection == 0:
                return Harm(call_at=(INPUT_BYTES // 2, kill)), Harm()
            away = time.monotonic() < refusing_until[0]
            return Harm(reset_at=0 if away else None), Harm()

        proxy = stack.enter_context(FaultProxy(victim.address, harms))
        report = quantctl_json("quantize", "--to", "int8:group=128", source, "-o", out, "--server",
                               proxy.address)
    assert out.read_bytes() == bytes_expected
    assert max(tensor["attempts"] for tensor in report["tensors"]) > 2
