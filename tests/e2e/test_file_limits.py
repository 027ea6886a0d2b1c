"""Inputs that are the output, that change while they are read, and limits of process and disk: an
error that names the file, no signal, and nothing left behind."""

import os
import pathlib
import resource
import subprocess

import numpy as np
import pytest
from conftest import (QUANTCTL, SANITIZED, clean_env, error_of, joining, load_file, quantctl, quantctl_json,
                      wait_until)
from safetensors.numpy import save_file

X = np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    save_file({"w": X}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


# --- The output is the input ---------------------------------------------------------------------


def names_of(path):
    """The file under its own name, a hard link and a symbolic one."""
    hard, soft, far = (path.with_name(f"{n}-{path.name}") for n in ("hard", "soft", "far"))
    os.link(path, hard)
    soft.symlink_to(path.name)
    far.symlink_to(soft.name)
    return [path, path.parent / "." / path.name, hard, soft, far]


def refuse(path, *command, **kwargs):
    before = path.read_bytes()
    message = error_of(*command, code=2, **kwargs)
    assert "--force" in message
    assert path.read_bytes() == before


def test_an_input_is_not_replaced(tmp_path, source):
    for name in names_of(source):
        refuse(source, "quantize", source, "-o", name, "--to", "int8")
        refuse(source, "quantize", name, "-o", source, "--to", "int8")
        refuse(source, "calibrate", source, "-o", name, "--to", "int8")
    packed = tmp_path / "q.safetensors"
    quantctl("quantize", source, "-o", packed, "--to", "int8")
    for name in names_of(packed):
        refuse(packed, "dequantize", packed, "-o", name)
    ranges = tmp_path / "ranges.safetensors"
    quantctl("calibrate", source, "-o", ranges, "--to", "int8")
    refuse(ranges, "quantize", source, "-o", ranges, "--to", "int8", "--ranges", ranges)
    raw = tmp_path / "w.raw"
    raw.write_bytes(X.tobytes())
    with open(raw, "rb") as stdin:  # a file, though by the way of standard input
        refuse(raw, "quantize", "-", "--dtype", "f32", "--shape", "64,64", "-o", raw, "--to", "int8",
               "--format", "safetensors", stdin=stdin)
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "a.npy", X)
    refuse(folder / "a.npy", "quantize", folder, "-o", folder / "a.npy", "--to", "fp16")


def test_force_replaces_it(source):
    quantctl("quantize", source, "-o", source, "--to", "int8:axis=0", "--force")
    assert set(load_file(source)) == {"w", "w.scale"}
    quantctl("verify", source)
    quantctl("dequantize", source, "-o", source, "--force")
    np.testing.assert_allclose(load_file(source)["w"], X, atol=np.abs(X).max() / 127)


def test_another_file_is_replaced_as_ever(tmp_path, source):
    out = tmp_path / "o.safetensors"
    for _ in range(2):
        quantctl("quantize", source, "-o", out, "--to", "int8")


# --- Inputs that change --------------------------------------------------------------------------


def read_bytes(pid):
    """How much the process has read so far."""
    for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


SLOW_ROWS = 4096 if SANITIZED else 65536  # of 4 KiB


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("what", ["shrinks", "is written to"])
def test_a_file_that_changes_while_it_is_read(tmp_path, nothing_left, server, what, server_side):
    path = tmp_path / "slow.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (SLOW_ROWS, 1024))[0] = X.ravel()[:1024]
    path_bytes = path.stat().st_size
    # The threads of q4_k's search are slower than any disk.
    args = ["--server", server.address] if server_side else ["--threads", "1"]
    process = subprocess.Popen(
        [QUANTCTL, "-q", *args, "quantize", path, "-o", nothing_left / "o.safetensors", "--to", "q4_k"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env())
    before = path_bytes // 8
    wait_until(lambda: process.poll() is not None or read_bytes(process.pid) > before, "reading")
    assert process.poll() is None, process.communicate()
    if what == "shrinks":
        os.truncate(path, path_bytes // 16)
    else:
        with open(path, "r+b") as file:
            file.seek(path_bytes - 4)
            file.write(b"\0\0\0\0")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert b"slow.npy" in error


# --- The disk ------------------------------------------------------------------------------------

# Fails as disks do: FAIL names a call and an error, of files beyond a first part.
FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static int fails(const char* call, int fd, const char* part) {
  const char* wanted = getenv("FAIL");
  char link[64], path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof(path) - 1);
  if (!wanted || strcmp(wanted, call) || size < 0) return 0;
  path[size] = 0;
  return strstr(path, part) != NULL;
}
#define NEXT(type, name) static __typeof__(type) next; if (!next) next = (__typeof__(type))dlsym(RTLD_NEXT, name)
ssize_t pread(int fd, void* to, size_t count, off_t at) {
  NEXT(ssize_t (*)(int, void*, size_t, off_t), "pread");
  if (count > 4096 && fails("pread", fd, "w.safetensors")) { errno = EIO; return -1; }
  return next(fd, to, count, at);
}
ssize_t pread64(int fd, void* to, size_t count, off_t at) { return pread(fd, to, count, at); }
ssize_t pwrite(int fd, const void* from, size_t count, off_t at) {
  NEXT(ssize_t (*)(int, const void*, size_t, off_t), "pwrite");
  if (at + count > 1000 && fails("pwrite", fd, "/out/")) { errno = ENOSPC; return -1; }
  return next(fd, from, count, at);
}
ssize_t pwrite64(int fd, const void* from, size_t count, off_t at) { return pwrite(fd, from, count, at); }
int fsync(int fd) {
  NEXT(int (*)(int), "fsync");
  if (fails("fsync", fd, "/out/")) { errno = EIO; return -1; }
  return next(fd);
}
"""


@pytest.fixture(scope="session")
def failing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failing")
    (folder / "failing.c").write_text(FAILING)
    library = folder / "failing.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "failing.c", "-ldl"], check=True)
    return library


@pytest.mark.parametrize("call, names", [
    ("pread", ["w.safetensors", "Input/output error"]),
    ("pwrite", ["o.safetensors", "No space left"]),
    ("fsync", ["o.safetensors", "Input/output error"]),
])
def test_a_disk_that_fails(source, nothing_left, failing, server, call, names):
    # AddressSanitizer's own library is content to come second.
    env = {"LD_PRELOAD": str(failing), "FAIL": call,
           "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}
    for extra in ([], ["--server", server.address]):
        message = error_of("quantize", source, "-o", nothing_left / "o.safetensors", "--to", "int8",
                           *extra, code=4, env=env)
        for name in names:
            assert name in message


# --- Limits --------------------------------------------------------------------------------------


def limit_files_to(size_bytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


@pytest.mark.parametrize("command", ["quantize", "npy", "dequantize", "calibrate"])
def test_the_limit_of_file_sizes(tmp_path, source, nothing_left, command):
    packed, out = tmp_path / "q.safetensors", nothing_left / "o.safetensors"
    quantctl("quantize", source, "-o", packed, "--to", "int8")
    args = {"quantize": ["quantize", source, "-o", out, "--to", "int8"],
            "npy": ["quantize", source, "-o", out, "--format", "npy", "--to", "int8"],
            "dequantize": ["dequantize", packed, "-o", out],
            "calibrate": ["calibrate", source, "-o", out, "--to", "int8:group=1"]}[command]
    message = error_of(*args, code=4, preexec_fn=limit_files_to(2000))
    assert "o.safetensors" in message and "large" in message.lower()


def test_more_files_than_may_be_open(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(150):
        np.save(folder / f"{i}.npy", X[:2])
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    quantctl("quantize", folder, "-o", tmp_path / "q", "--format", "npy", "--to", "int8",
             preexec_fn=limit)
    quantctl("verify", tmp_path / "q", "--against", folder, preexec_fn=limit)
    quantctl("dequantize", tmp_path / "q", "-o", tmp_path / "b.safetensors", preexec_fn=limit)


@pytest.mark.parametrize("pattern", [
    "(a|aa)*$b", "(a*)*b", "((((a+)+)+)+)+b", "(.*a){20}b", "(" * 500 + "a" + ")" * 500])
def test_patterns_take_time_in_proportion(tmp_path, pattern):
    source = tmp_path / "a.safetensors"
    save_file({"a" * 1000: X, "w": X}, source)
    quantctl("plan", source, "--to", "int8", "--exclude", pattern, timeout=60)
    quantctl("plan", source, "--to", "int8", "--include", f"w|{pattern}", timeout=60)


def test_patterns_that_are_none(source):
    for pattern in ("[", "a**", "(?=w)", "a{2000}", "(" * 100_000):
        message = error_of("plan", source, "--to", "int8", f"--include={pattern}", code=2)
        assert "regular expression" in message and len(message) < 300_000


# --- Memory --------------------------------------------------------------------------------------


@pytest.mark.skipif(SANITIZED, reason="a sanitizer holds memory of its own")
def test_the_limit_of_the_cgroup(tmp_path, nothing_left, cgroup):
    join = joining(cgroup)
    assert quantctl_json("info", preexec_fn=join)["memory_budget_bytes"] == 128 << 20
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (1 << 15, 3 << 10))[7, :64] = X[0]  # 384 MiB
    turned = tmp_path / "turned.npy"
    np.lib.format.open_memmap(turned, "w+", np.float32, (1 << 15, 3 << 10), fortran_order=True)
    for args in ([path, "int8:axis=0"], [path, "int8"], [turned, "int8:axis=0"]):
        quantctl("-q", "quantize", args[0], "-o", tmp_path / "o.safetensors", "--to", args[1],
                 preexec_fn=join)
