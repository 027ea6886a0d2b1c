"""Fixtures: the built programs, a running server, inputs, clients generated from the proto.

The programs are those of $QUANTD_BUILD_DIR (default: build/ beside the sources).
"""

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUANTD_BUILD_DIR", ROOT / "build"))
QUANTCTL = BUILD / "client" / "quantctl"
QUANTD = BUILD / "server" / "quantd"
MODEL = ROOT / "tests" / "data" / "silero_vad_16k.safetensors"
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "I16": "<i2",
               "I32": "<i4", "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
               "BOOL": "?", "F8_E4M3": "u1", "F8_E5M2": "u1"}
# Their builds hold memory of the sanitizer's own, so that how much they hold says nothing.
SANITIZED = any(init in QUANTD.read_bytes() for init in (b"__asan_init", b"__tsan_init"))
START_SECONDS = 60  # generous: sanitizers, two cores

sys.path.insert(0, str(pathlib.Path(__file__).parent))


def load_file(path):
    """Reads all tensors by the safetensors package; types that numpy lacks come as bits."""
    return {
        name: np.frombuffer(bytes(t["data"]), NUMPY_TYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in safetensors.deserialize(pathlib.Path(path).read_bytes())
    }


def clean_env(extra=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith("QUANTD_")}
    env.update(extra or {})
    return env


def quantctl(*args, code=0, env=None, timeout=120, **kwargs):
    """Runs quantctl, checks its exit code (None: any), returns the finished process."""
    result = subprocess.run(
        [QUANTCTL, *map(str, args)], capture_output=True, env=clean_env(env), timeout=timeout, **kwargs
    )
    if code is not None:
        assert result.returncode == code, (
            f"quantctl {' '.join(map(str, args))}: exit {result.returncode}, not {code}\n"
            f"{result.stdout.decode()}\n{result.stderr.decode()}"
        )
    return result


def quantctl_json(*args, **kwargs):
    """Runs quantctl with --json and returns what it printed, parsed."""
    result = quantctl(*args, "--json", **kwargs)
    return json.loads(result.stdout)


def error_of(*args, code, **kwargs):
    """Runs quantctl, which must fail with `code`, and returns its message."""
    result = quantctl(*args, code=code, **kwargs)
    message = result.stderr.decode()
    assert message.strip(), "failed without a message"
    return message


class Server:
    """A running quantd."""

    def __init__(self, process, address, log_path):
        self.process = process
        self.address = address
        self.log_path = log_path

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self.log_path.read_text()

    def peak_rss_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def wait(self, timeout=START_SECONDS):
        return self.process.wait(timeout)


def wait_until(condition, what, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        select.select([], [], [], 0.005)


@contextlib.contextmanager
def running_server(folder, *args, listen="127.0.0.1:0", env=None, preexec_fn=None):
    """Starts quantd, gives it when it listens, and stops it by SIGTERM if it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log_path = folder / "port", folder / "log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [QUANTD, "--listen", listen, "--port-file", str(port_file), *map(str, args)],
            stdout=log, stderr=subprocess.STDOUT, env=clean_env(env), preexec_fn=preexec_fn,
        )
    try:
        def ready():
            assert process.poll() is None, f"quantd ended: {log_path.read_text()}"
            return port_file.exists() and port_file.read_text().endswith("\n")

        wait_until(ready, "the port file")
        yield Server(process, port_file.read_text().strip(), log_path)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@contextlib.contextmanager
def surviving_server(folder, *args, **kwargs):
    """A server that has to live until the end, and must not hold any memory then."""
    with running_server(folder, *args, **kwargs) as running:
        yield running
        assert running.process.poll() is None, running.log()
        wait_until(
            lambda: quantctl_json("info", "--server", running.address)["memory_used_bytes"] == 0,
            "the release of memory")
    assert running.process.returncode == 0, running.log()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server on TCP that all tests share; it has to survive every one of them."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert running.process.poll() is None, running.log()
    assert running.process.returncode == 0, running.log()


@pytest.fixture(scope="session")
def unix_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unix")
    with running_server(folder, listen=f"unix:{folder}/quantd.sock") as running:
        yield running


@pytest.fixture(scope="session")
def model():
    return load_file(MODEL)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A small model of awkward tensors; returns its path and the arrays."""
    rng = np.random.default_rng(7)
    arrays = {
        "block.weight": rng.standard_normal((24, 64)).astype(np.float32),
        "block.bias": rng.standard_normal(24).astype(np.float32),
        "embed": (rng.standard_normal((10, 3, 48)) * 3).astype(np.float32),
        "half": rng.standard_normal((6, 32)).astype(np.float16),
        "double": rng.standard_normal((5, 32)),
        "odd": rng.standard_normal((7, 13)).astype(np.float32),
        "zeros": np.zeros((4, 32), np.float32),
        "ids": np.arange(12, dtype=np.int64).reshape(3, 4),
        "step": np.array(3.5, np.float32),
        "empty": np.zeros((0, 32), np.float32),
    }
    path = tmp_path_factory.mktemp("made") / "made.safetensors"
    save_file(arrays, path, metadata={"author": "tests"})
    return path, arrays


def make_stubs(folder):
    """The modules that grpcio-tools makes of the proto: (messages, services)."""
    from grpc_tools import protoc

    include = pathlib.Path(protoc.__file__).parent / "_proto"
    assert 0 == protoc.main([
        "protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={folder}",
        f"--grpc_python_out={folder}", "quantd/v1/quantization.proto",
    ])
    sys.path.insert(0, str(folder))
    from quantd.v1 import quantization_pb2, quantization_pb2_grpc

    return quantization_pb2, quantization_pb2_grpc


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    return make_stubs(tmp_path_factory.mktemp("stubs"))


@contextlib.contextmanager
def memory_cgroup(limit_bytes):
    """A cgroup that holds its processes to so much memory; OSError where none can be made."""
    old = pathlib.Path("/sys/fs/cgroup/memory")
    group = (old if old.is_dir() else pathlib.Path("/sys/fs/cgroup")) / f"quantd-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(str(limit_bytes))
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the end of its processes")
        group.rmdir()


def joining(group):
    """What a process does first to be in a cgroup."""
    return lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture
def cgroup():
    """A cgroup of 256 MiB; skips where none can be made."""
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(memory_cgroup(256 << 20))
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made: {error}")
        yield group


@pytest.fixture
def nothing_left(tmp_path):
    """A folder for output that must be empty when the test ends: no file, no temporary file."""
    folder = tmp_path / "out"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
