"""Servers that are not up yet, and that hang."""

import os
import pathlib
import select
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import QUANTCTL, SANITIZED, clean_env, error_of, load_file, quantctl, running_server, wait_until
from safetensors.numpy import save_file

# A person waits a second; what a loaded machine may add to it.
PROMPT_SECONDS = 20 if SANITIZED else 5


def catches(pid, signal_number):
    """True if the process has a handler of its own for the signal."""
    status = (pathlib.Path("/proc") / str(pid) / "status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return int(caught, 16) >> (signal_number - 1) & 1 == 1


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": np.eye(64, 64, dtype=np.float32)}, path)
    return path


@pytest.mark.parametrize("command", ["quantize", "info"])
def test_a_server_that_is_not_up_yet_is_waited_for(tmp_path, source, command):
    with running_server(tmp_path / "server", listen=f"unix:{tmp_path}/up.sock"):
        arguments = {"quantize": [source, "-o", tmp_path / "q.safetensors", "--to", "int8"], "info": []}
        process = subprocess.Popen(
            [QUANTCTL, command, "--server", f"unix:{tmp_path}/late.sock", *arguments[command]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env())
        # Time for a first attempt, which fails; the test holds without it too.
        select.select([process.stdout], [], [], 0.5)
        os.symlink(tmp_path / "up.sock", tmp_path / "late.sock")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    if command == "quantize":
        assert "w.scale" in load_file(tmp_path / "q.safetensors")


def test_it_is_waited_for():
    begin = time.monotonic()
    message = error_of("info", "--server", "127.0.0.1:1", code=3)
    assert 2.9 <= time.monotonic() - begin < 60
    assert "127.0.0.1:1" in message
    error_of("info", "--server", "127.0.0.1:1", "--timeout", "0.5", code=3)
    quantctl("info", "--health", "--server", "127.0.0.1:1", code=1)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{}/quantd.sock"])
def test_ctrl_c_ends_it_although_the_server_hangs(tmp_path, source, listen, nothing_left):
    with running_server(tmp_path / "server", listen=listen.format(tmp_path)) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            process = subprocess.Popen(
                [QUANTCTL, "quantize", "--server", server.address, source, "-o",
                 nothing_left / "q.safetensors", "--to", "int8"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env())
            wait_until(lambda: catches(process.pid, signal.SIGINT), "the handler of SIGINT")
            assert select.select([process.stdout, process.stderr], [], [], 1)[0] == []  # it hangs
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert time.monotonic() - begin < PROMPT_SECONDS
            assert process.returncode == 128 + signal.SIGINT and b"interrupted" in errors
        finally:
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{}/quantd.sock"])
def test_timeout_ends_it_although_the_server_hangs(tmp_path, source, listen, nothing_left):
    with running_server(tmp_path / "server", listen=listen.format(tmp_path)) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            error_of("quantize", "--server", server.address, "--timeout", "1", source, "-o",
                     nothing_left / "q.safetensors", "--to", "int8", code=3)
            assert time.monotonic() - begin < 1 + PROMPT_SECONDS
        finally:
            os.kill(server.pid, signal.SIGCONT)
