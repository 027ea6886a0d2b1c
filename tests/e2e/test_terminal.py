"""What people see: 80 columns are enough, names from files obey nobody, a reader may go."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios

import numpy as np
import pytest
from conftest import QUANTCTL, clean_env, error_of, quantctl, quantctl_json, wait_until
from safetensors.numpy import save_file

ESCAPE = "\x1b"
WIPE = "\r\x1b[K"  # what the progress bar begins a line with


class Terminal:
    """A terminal of so many columns, and what has been written to it."""

    def __init__(self, columns):
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = ""

    def read(self, seconds=0.05):
        """Takes what comes within `seconds`; false at the end."""
        if not select.select([self.ours], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.ours, 1 << 16)
        except OSError:  # nobody has the other side any more
            data = b""
        self.text += data.decode()
        return bool(data)

    def close(self):
        os.close(self.ours)


def seen_by(args, columns=80, env=None, **kwargs):
    """Runs quantctl on a terminal; returns its exit code and the lines, as far as they stay."""
    terminal = Terminal(columns)
    process = subprocess.Popen([QUANTCTL, *map(str, args)], stdout=terminal.theirs,
                               stderr=terminal.theirs, env=clean_env(env), **kwargs)
    os.close(terminal.theirs)
    while terminal.read(120):
        pass
    terminal.close()
    code = process.wait(60)
    return code, [line.split(WIPE)[-1] for line in terminal.text.replace("\r\n", "\n").split("\n")]


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """A model as they are: long names, many biases, one tensor that the scheme cannot take."""
    rng = np.random.default_rng(3)
    prefix = "language_model.model.layers.{}.block_sparse_moe.shared_expert"
    arrays = {}
    for i in range(64):
        arrays[f"{prefix.format(i)}.norm.bias"] = np.ones(8, np.float32)
    for i in range(6):
        arrays[f"{prefix.format(i)}.gate_up_projection.weight"] = rng.standard_normal(
            (16, 32)).astype(np.float32)
    arrays["odd.weight"] = rng.standard_normal((16, 33)).astype(np.float32)
    folder = tmp_path_factory.mktemp("long")
    save_file(arrays, folder / "m.safetensors", metadata={"note": "x" * 3000})
    return folder / "m.safetensors"


def commands_on(path, folder):
    packed = folder / "q.safetensors"
    spec = "int8:group=32,incompatible=keep"
    return [
        ["quantize", path, "-o", packed, "--to", spec],
        ["verify", packed, "--against", path],
        ["dequantize", packed, "-o", folder / "back.safetensors"],
        ["plan", path, "--to", spec],
        ["calibrate", path, "--to", "int8:axis=0"],
        ["inspect", packed],
        ["schemes"],
        ["schemes", "--keys"],
    ]


@pytest.mark.parametrize("columns", [80, 100, 60])
def test_tables_fit(long_names, tmp_path, columns):
    for args in commands_on(long_names, tmp_path):
        code, lines = seen_by(args, columns)
        assert code == 0, lines
        table = lines[:lines.index("")] if args[0] != "schemes" else lines
        if args[:1] == ["schemes"] and "--keys" not in args:
            table = lines[:next(i for i, line in enumerate(lines) if line.startswith("As specs"))]
        for line in table:
            assert len(line) <= columns, f"{args[0]}: {line}"


def test_names_lose_their_middle_and_kept_ones_are_one_line(long_names, tmp_path):
    for args in commands_on(long_names, tmp_path)[:4]:
        _, lines = seen_by(args)
        assert any(re.match(r"langua\S*\.\.\.\S*weight ", line) for line in lines), lines
    for args in commands_on(long_names, tmp_path)[:1] + commands_on(long_names, tmp_path)[3:4]:
        _, lines = seen_by(args)
        assert sum("kept: rank 1" in line for line in lines) == 1
        assert sum("64 kept: rank 1" in line for line in lines) == 1
        # What is alone of its kind has its name.
        assert sum(line.startswith("odd.weight") for line in lines) == 1
        assert any("does not divide" in re.sub(r"\s+", " ", line) or "divide" in line for line in lines)
    report = quantctl_json(*commands_on(long_names, tmp_path)[0])
    assert sum(row["note"] == "kept: rank 1" for row in report["tensors"]) == 64


def test_a_pipe_has_no_columns_but_those_it_is_told(long_names, tmp_path):
    args = commands_on(long_names, tmp_path)[3]
    free = quantctl(*args).stdout.decode()
    assert "language_model.model.layers.0.block_sparse_moe.shared_expert.gate_up_projection.weight" in free
    told = quantctl(*args, env={"COLUMNS": "72"}).stdout.decode()
    assert max(map(len, told.split("\n"))) <= 72


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_progress_stays_on_its_line(tmp_path, columns):
    rows = 1 << 16
    terminal = Terminal(columns)
    process = subprocess.Popen(
        [QUANTCTL, "quantize", "-", "--dtype", "f32", "--shape", f"{rows}x256", "--to", "int8:axis=0",
         "-o", tmp_path / "q.safetensors"],
        stdin=subprocess.PIPE, stdout=terminal.theirs, stderr=terminal.theirs, env=clean_env())
    os.close(terminal.theirs)
    row = np.ones(256, np.float32).tobytes()
    sent = 0
    while terminal.text.count(WIPE) < 3 and sent < rows // 2:
        process.stdin.write(row * 256)
        process.stdin.flush()
        sent += 256
        terminal.read()
    for _ in range(rows // 256 - sent // 256):
        process.stdin.write(row * 256)
        terminal.read(0)
    process.stdin.close()
    while terminal.read(120):
        pass
    terminal.close()
    assert process.wait(60) == 0
    bars = terminal.text.split(WIPE)[1:-1]
    assert len(bars) >= 2
    for bar in bars:
        assert "\n" not in bar and len(bar) < columns and "%" in bar, bar


EVIL = [f"{ESCAPE}[2J{ESCAPE}]0;owned\x07wipe", "two\nlines", "cr\rover", "\u202ereversed", "\u200bhidden",
        "n" * 1000]


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    path = tmp_path_factory.mktemp("evil") / "m.safetensors"
    arrays = {name + ".weight": np.eye(4, 32, dtype=np.float32) for name in EVIL}
    save_file(arrays, path, metadata={f"{ESCAPE}[31mkey": f"{ESCAPE}[2Jtext\nmore"})
    return path


def test_names_of_files_are_shown_and_not_obeyed(evil, tmp_path):
    for args in commands_on(evil, tmp_path):
        for env in ({}, {"COLUMNS": "80"}):
            result = quantctl(*args, env=env)
            text = (result.stdout + result.stderr).decode()
            for obeyed in (ESCAPE, "\r", "\x07", "\u202e", "\u200b"):
                assert obeyed not in text, (args, obeyed)
            assert max(map(len, text.split("\n"))) <= 500
            if args[0] in ("quantize", "plan", "inspect"):
                assert "\\x0alines" in text and "\\x1b" in text and "\\xe2\\x80\\x" in text


@pytest.mark.parametrize("name", [*EVIL, "n" * 5000])
def test_errors_show_names_and_do_not_obey_them(tmp_path, name, nothing_left):
    x = np.ones((2, 33), np.float32)
    x[1, 1] = np.nan
    save_file({name: x}, tmp_path / "m.safetensors")
    message = error_of("quantize", tmp_path / "m.safetensors", "-o", nothing_left / "q.safetensors",
                       "--to", "int8", code=2)
    assert message.count("\n") == 1 and len(message) <= 1100
    assert not set(message[:-1]) & set("\x1b\r\n\x07\u202e\u200b")
    message = error_of("quantize", tmp_path / "m.safetensors", "-o", nothing_left / "q.safetensors",
                       "--to", "int8:group=32", code=2)
    assert message.count("\n") == 1 and len(message) <= 1100


def run_without_reader(args, **kwargs):
    """Runs quantctl whose stdout nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([QUANTCTL, *map(str, args)], stdout=writer, stderr=subprocess.PIPE,
                            env=clean_env(), timeout=120, **kwargs)
    os.close(writer)
    return result


def test_a_reader_that_goes_is_no_error_to_talk_about(long_names, tmp_path):
    for args in commands_on(long_names, tmp_path):
        for extra in ([], ["--json"]):
            result = run_without_reader([*args, "-q", *extra])
            assert result.stderr == b"", args
            assert result.returncode == -signal.SIGPIPE, args
    assert (tmp_path / "q.safetensors").stat().st_size > 0  # it was the report that nobody read
    # As a shell sees it.
    script = f"set -o pipefail; '{QUANTCTL}' inspect '{long_names}' | head -1"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=120, env=clean_env())
    assert result.stderr == b"" and result.stdout.startswith(b"tensor")


def test_a_full_disk_is_an_error(long_names):
    with open("/dev/full", "wb") as full:
        result = subprocess.run([QUANTCTL, "inspect", long_names], stdout=full,
                                stderr=subprocess.PIPE, env=clean_env(), timeout=120)
    assert result.returncode == 4 and b"stdout" in result.stderr


def test_errors_are_printed_while_nobody_reads(tmp_path):
    result = run_without_reader(["inspect", tmp_path / "absent.safetensors"])
    assert result.returncode == 4 and b"absent.safetensors" in result.stderr
