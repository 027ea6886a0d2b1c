"""Data through pipes: -o -, FIFOs and <(...), in and out."""

import json
import os
import pty
import signal
import subprocess
import threading

import numpy as np
import pytest
from conftest import QUANTCTL, SANITIZED, clean_env, error_of, quantctl, running_server, wait_until
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(5).standard_normal((16, 32)).astype(np.float32)


@pytest.fixture
def packed(tmp_path, values):
    """The file that quantizing the values gives: path of the input, and of the file."""
    save_file({"w": values, "b": np.ones(3, np.float32)}, tmp_path / "m.safetensors")
    quantctl("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "q.safetensors", "--to", "int8:axis=0")
    return tmp_path / "m.safetensors", tmp_path / "q.safetensors"


@pytest.fixture
def temporary(tmp_path):
    """$TMPDIR, in which nothing is left."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield {"TMPDIR": str(folder)}
    assert list(folder.iterdir()) == []


def test_stdout_has_the_data_and_stderr_the_report(tmp_path, packed, temporary):
    source, want = packed
    work = tmp_path / "work"
    work.mkdir()
    result = quantctl("quantize", source, "-o", "-", "--to", "int8:axis=0", cwd=work, env=temporary)
    assert result.stdout == want.read_bytes()
    assert b"SQNR" in result.stderr and b"standard output" in result.stderr
    result = quantctl("quantize", source, "-o", "-", "--to", "int8:axis=0", "--json", cwd=work,
                      env=temporary)
    assert result.stdout == want.read_bytes()
    assert json.loads(result.stderr)["output"] == "-"
    quantctl("dequantize", want, "-o", tmp_path / "back.safetensors")
    result = quantctl("dequantize", want, "-o", "-", cwd=work, env=temporary)
    assert result.stdout == (tmp_path / "back.safetensors").read_bytes()
    assert b"dequantized" in result.stderr
    quantctl("calibrate", source, "--to", "int8:axis=0", "-o", tmp_path / "r.json")
    result = quantctl("calibrate", source, "--to", "int8:axis=0", "-o", "-", cwd=work)
    assert result.stdout == (tmp_path / "r.json").read_bytes()
    assert b"w " in result.stderr
    assert list(work.iterdir()) == []  # no file that is called "-"


def test_data_goes_on_into_a_shell(tmp_path, packed, temporary):
    source, want = packed
    script = (f"'{QUANTCTL}' -q quantize '{source}' -o - --to int8:axis=0 | cat > piped && "
              f"'{QUANTCTL}' -q quantize '{source}' --to int8:axis=0 -o - > redirected && "
              f"'{QUANTCTL}' -q quantize '{source}' --to int8:axis=0 -o >(cat > substituted; echo done > ready)")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=120,
                          env=clean_env(temporary))
    assert done.returncode == 0, done.stderr.decode()
    wait_until((tmp_path / "ready").exists, "the end of the reader")
    for name in ("piped", "redirected", "substituted"):
        assert (tmp_path / name).read_bytes() == want.read_bytes(), name


def test_errors_leave_stdout_empty(tmp_path, packed, temporary):
    source, _ = packed
    result = quantctl("quantize", source, "-o", "-", "--to", "int8:axis=7", code=2, env=temporary)
    assert result.stdout == b"" and b"axis=7" in result.stderr
    result = quantctl("quantize", source, "-o", "-", "--to", "int8:axis=7", "--json", code=2)
    assert result.stdout == b""
    assert "axis=7" in result.stderr.decode()
    message = error_of("quantize", source, "-o", "-", "--to", "int8", "--format", "npy", code=2)
    assert "npy" in message and "safetensors" in message


def test_a_terminal_gets_no_data(packed):
    ours, theirs = pty.openpty()
    done = subprocess.run([QUANTCTL, "quantize", packed[0], "-o", "-", "--to", "int8"], stdout=theirs,
                          stderr=subprocess.PIPE, timeout=120, env=clean_env())
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2 and b"terminal" in done.stderr


def test_a_reader_that_goes_ends_it_quietly(packed, temporary):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([QUANTCTL, "-q", "quantize", packed[0], "-o", "-", "--to", "int8"],
                          stdout=writer, stderr=subprocess.PIPE, timeout=120, env=clean_env(temporary))
    os.close(writer)
    assert done.returncode == -signal.SIGPIPE and done.stderr == b""


def test_a_signal_ends_it_while_the_reader_hangs(tmp_path, temporary):
    save_file({"w": np.ones((1024, 1024), np.float32)}, tmp_path / "m.safetensors")
    reader, writer = os.pipe()
    process = subprocess.Popen([QUANTCTL, "-q", "quantize", tmp_path / "m.safetensors", "-o", "-", "--to",
                                "int8"], stdout=writer, stderr=subprocess.PIPE, env=clean_env(temporary))
    os.close(writer)
    try:
        assert os.read(reader, 8)  # it writes, more than the pipe holds
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.stderr.close()
        os.close(reader)


@pytest.mark.parametrize("name", [None, "w"])
def test_fifos_are_read_as_standard_input(tmp_path, values, name):
    values.tofile(tmp_path / "w.f32")
    shape = ["--dtype", "f32", "--shape", "16,32", "--to", "int8:axis=0"]
    shape += ["--name", name] if name else []
    with open(tmp_path / "w.f32", "rb") as raw:
        quantctl("quantize", "-", *shape, "-o", tmp_path / "want.safetensors", stdin=raw)
    words = " ".join(shape)
    script = f"'{QUANTCTL}' quantize <(cat w.f32) {words} -o substituted.safetensors"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=120,
                          env=clean_env())
    assert done.returncode == 0, done.stderr.decode()
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(values.tobytes()))
    writer.start()
    quantctl("quantize", tmp_path / "fifo", *shape, "-o", tmp_path / "fifo.safetensors")
    writer.join()
    want = (tmp_path / "want.safetensors").read_bytes()
    assert (tmp_path / "substituted.safetensors").read_bytes() == want
    assert (tmp_path / "fifo.safetensors").read_bytes() == want


def test_secrets_come_through_pipes(tmp_path):
    """--token-file <(...), and no file with the token."""
    token, line = quantctl("token", "alice").stdout.decode().split("\n")[:2]
    (tmp_path / "tokens").write_text(line + "\n")
    (tmp_path / "tokens").chmod(0o600)
    with running_server(tmp_path / "server", "--tokens", tmp_path / "tokens") as server:
        script = (f"'{QUANTCTL}' info --server {server.address} --token-file <(echo \"$TOKEN\") && "
                  f"! '{QUANTCTL}' info --server {server.address} --token-file <(echo wrong)")
        done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=120,
                              env=clean_env({"TOKEN": token}))
    assert done.returncode == 0, done.stderr.decode()


def test_ranges_come_through_pipes(tmp_path, packed):
    """--ranges <(...), and INPUT beside it."""
    source, _ = packed
    quantctl("calibrate", source, "--to", "int8:axis=0", "-o", tmp_path / "r.json")
    quantctl("quantize", source, "-o", tmp_path / "want.safetensors", "--to", "int8:axis=0",
             "--ranges", tmp_path / "r.json")
    os.mkfifo(tmp_path / "fifo")
    script = (f"'{QUANTCTL}' quantize m.safetensors -o substituted.safetensors --to int8:axis=0 "
              f"--ranges <(cat r.json) && cat r.json > fifo & "
              f"'{QUANTCTL}' quantize m.safetensors -o fifo.safetensors --to int8:axis=0 --ranges fifo && wait $!")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=120,
                          env=clean_env())
    assert done.returncode == 0, done.stderr.decode()
    want = (tmp_path / "want.safetensors").read_bytes()
    assert (tmp_path / "substituted.safetensors").read_bytes() == want
    assert (tmp_path / "fifo.safetensors").read_bytes() == want


def test_ranges_without_end_are_refused(tmp_path, packed, nothing_left):
    """A pipe is read up to a bound."""
    # Sanitizers reserve far more addresses than that.
    bound = "" if SANITIZED else "ulimit -v 2000000; "
    script = (f"{bound}'{QUANTCTL}' quantize m.safetensors -o '{nothing_left}/q.safetensors' "
              f"--to int8 --ranges <(echo no; exec cat /dev/zero)")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=120,
                          env=clean_env())
    assert done.returncode == 4, done.stderr.decode()
    assert b"larger than" in done.stderr and b"/dev/fd/" in done.stderr


def test_pipes_say_what_they_need(tmp_path, values, nothing_left):
    values.tofile(tmp_path / "w.f32")
    for extra, words in ([], ["--dtype", "--shape"]), (["--dtype", "f32", "--shape", "16,33"], ["2112"]):
        script = f"'{QUANTCTL}' quantize <(cat w.f32) {' '.join(extra)} -o '{nothing_left}/q.safetensors' --to int8"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=120,
                              env=clean_env())
        assert done.returncode == 2, done.stderr.decode()
        for word in words:
            assert word in done.stderr.decode()
