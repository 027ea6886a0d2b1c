"""A container of 256 MiB, by a cgroup: the server lives through attacks and through honest crowds."""

import concurrent.futures
import random
import re
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import reference
from conftest import ROOT, SANITIZED, joining, surviving_server
from test_grpc_client import collect, frames_of

sys.path.insert(0, str(ROOT / "tests" / "attack"))
import attack  # noqa: E402

pytestmark = pytest.mark.skipif(SANITIZED, reason="a sanitizer holds memory of its own")
MIB = 1 << 20
SECONDS, CONNECTIONS = 1, 16
ATTACKS = attack.attacks()


def times_killed(group):
    """How often the kernel ended a process of the group for its memory."""
    for name in ("memory.oom_control", "memory.events"):
        if (group / name).exists():
            return int(re.search(r"^oom_kill (\d+)$", (group / name).read_text(), re.MULTILINE).group(1))
    raise AssertionError(f"{group} says nothing of what was killed")


@pytest.mark.parametrize("tokens", [False, True], ids=["open", "tokens"])
def test_attacks(tmp_path, cgroup, tokens):
    """All of them, on one server that chose its own budget."""
    options = []
    if tokens:
        (tmp_path / "tokens").write_text(f"alice {'ab' * 32}\n")
        options = ["--tokens", tmp_path / "tokens"]
    for tls in (False, True):
        names = [name for name in ATTACKS if ATTACKS[name].tls == tls]
        with attack.target(tmp_path / str(tls), tls, *options, preexec_fn=joining(cgroup)) as (server, ask):
            for name in names:
                result = attack.run(server, ask, ATTACKS[name], CONNECTIONS, SECONDS, rest_seconds=0)
                assert result.sent_mib > 0, name
    assert times_killed(cgroup) == 0


@pytest.mark.parametrize("memory,clients,spec", [
    ("128MiB", 60, "int8:axis=0"), ("128MiB", 60, "int8"), ("64MiB", 100, "int8:axis=0")])
def test_honest_crowds(tmp_path, stubs, cgroup, memory, clients, spec):
    """Streams at once, each on a connection of its own: all get their right answer, some of them
    once they have come again, as a refusal says."""
    pb, services = stubs
    x = np.random.default_rng(4).standard_normal((2048, 512)).astype(np.float32)  # 4 MiB
    codes, scale = reference.int8_axis0(x) if "axis" in spec else reference.int8_per_tensor(x)
    right = {"codes": codes.tobytes(), "scale": np.asarray(scale).tobytes()}
    start = threading.Barrier(clients)

    def ask(address):
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            start.wait(60)
            stub = services.QuantizationServiceStub(channel)
            deadline = time.monotonic() + 120
            while True:
                try:
                    frames = frames_of(pb, x, spec, cut=1 << 18, crc=False)
                    done = collect(stub.StreamingQuantize(frames, timeout=120))
                    return "end" in done[1] and done[1]["planes"] == right
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
                    assert "grpc-status-details-bin" in dict(error.trailing_metadata()), error
                    assert time.monotonic() < deadline, error
                time.sleep(random.uniform(0.2, 1))

    with surviving_server(tmp_path / "s", "--memory", memory, preexec_fn=joining(cgroup)) as server, \
            concurrent.futures.ThreadPoolExecutor(clients) as pool:
        assert all(pool.map(ask, [server.address] * clients))
    assert times_killed(cgroup) == 0
