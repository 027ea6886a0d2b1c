"""One input and one spec give one file, whatever computes and carries it."""

import functools
import itertools
import hashlib

import pytest
from conftest import load_file, MODEL, quantctl, quantctl_json, running_server
from safetensors.numpy import save_file

SPECS = ["int8", "int8:axis=0", "int8:group=16,tail=short", "uint8:axis=1,mode=asymmetric,incompatible=keep",
         "int16:block=4x8,tail=short", "uint4:group=32,tail=short", "fp16", "bf16", "q8_0:incompatible=keep",
         "nf4", "nvfp4:incompatible=keep", "int8:axis=0,round=stochastic,seed=11",
         "int8:axis=1,range=p90,incompatible=keep", "int4:axis=1,range=mse,incompatible=keep"]
# Enough for every loop that depends on the target; the rest is the unit tests' to cover.
TARGET_SPECS = ["int8:axis=0", "uint8:group=32,mode=asymmetric,tail=short", "uint4", "fp16", "bf16",
                "q8_0:incompatible=keep", "nf4", "nvfp4:incompatible=keep"]


def file_digest(tmp_path, source, spec, *args, env=None):
    out_path = tmp_path / "o.safetensors"
    quantctl("quantize", source, "-o", out_path, "--to", spec, *args, env=env)
    return hashlib.sha256(out_path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory, made):
    """Model and made tensors together."""
    path = tmp_path_factory.mktemp("source") / "all.safetensors"
    save_file({**load_file(MODEL), **made[1]}, path)
    return path


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, source):
    """Digest of the embedded default's file, by spec."""
    folder = tmp_path_factory.mktemp("embedded")
    return functools.lru_cache(None)(lambda spec: file_digest(folder, source, spec))


@pytest.mark.parametrize("spec", SPECS)
def test_transports(tmp_path, source, embedded, spec, server, unix_server):
    assert file_digest(tmp_path, source, spec, "--server", server.address) == embedded(spec)
    for transport in ["unix", "shared_memory"]:
        assert file_digest(tmp_path, source, spec, "--server", unix_server.address, "--transport",
                           transport) == embedded(spec), transport


def test_the_best_transport_is_taken_and_told(server, unix_server):
    assert quantctl_json("info")["transport"] == "in_process"
    assert quantctl_json("info", "--server", server.address)["transport"] == "tcp"
    unix = ["info", "--server", unix_server.address]
    assert quantctl_json(*unix)["transport"] == "shared_memory"
    assert quantctl_json(*unix, "--transport", "unix")["transport"] == "unix"
    assert b"does not lead to" in quantctl("info", "--server", server.address, "--transport", "unix",
                                           code=2).stderr


def test_shared_memory_of_a_small_server(tmp_path, source, embedded):
    """Which may share a quarter of its 32 MiB: less than ten places of 4 MiB."""
    socket = tmp_path / "s.sock"
    with running_server(tmp_path / "s", "--memory", "32MiB", listen=f"unix:{socket}") as server:
        for spec in SPECS:
            assert file_digest(tmp_path, source, spec, "--server", server.address, "--transport",
                               "shared_memory") == embedded(spec), spec


@pytest.mark.parametrize("target", ["scalar", "sse4", "avx2", "avx512", "neon"])
def test_simd_targets(tmp_path, source, embedded, target):
    env = {"QUANTD_SIMD": target}
    probe = quantctl("info", "--json", env=env, code=None)
    if probe.returncode != 0:
        assert target.encode() in probe.stderr
        pytest.skip(f"this CPU or this build has no {target}")
    assert quantctl_json("info", env=env)["simd_target"] == target
    for spec in TARGET_SPECS:
        assert file_digest(tmp_path, source, spec, env=env) == embedded(spec), spec


def test_server_by_target_threads_and_budget(tmp_path, source, embedded):
    """Every target that this CPU and this build have; sanitizer builds have fewer."""
    targets = [target for target in ["scalar", "sse4", "avx2", "avx512", "neon"]
               if quantctl("info", env={"QUANTD_SIMD": target}, code=None).returncode == 0]
    assert "scalar" in targets and len(targets) >= 2
    for number, (target, threads) in enumerate(zip(["", *targets], itertools.cycle([2, 1, 5]))):
        env = {"QUANTD_SIMD": target} if target else {}
        with running_server(tmp_path / f"s{number}", "--threads", threads, "--memory", "64MiB",
                            env=env) as server:
            for spec in ["int8", "int8:axis=0", "uint4:group=32,tail=short", "nf4"]:
                got = file_digest(tmp_path, source, spec, "--server", server.address)
                assert got == embedded(spec), (target, threads, spec)


@pytest.mark.parametrize("found_by", ["p99", "mse", "entropy"])
def test_two_passes_over_columns_equal_one(tmp_path, found_by):
    """Counts of columns, which Calibrate keeps where the tensor is not held."""
    import numpy as np

    rng = np.random.default_rng(4)
    save_file({"w": rng.standard_normal((30000, 300)).astype(np.float32)}, tmp_path / "w.safetensors")
    spec = f"int4:axis=-1,range={found_by}"
    once = file_digest(tmp_path, tmp_path / "w.safetensors", spec)
    with running_server(tmp_path / "s", "--memory", "32MiB") as server:
        plan = quantctl_json("plan", tmp_path / "w.safetensors", "--to", spec, "--server", server.address)
        assert plan["tensors"][0]["pass"] == "two_pass"
        assert file_digest(tmp_path, tmp_path / "w.safetensors", spec, "--server", server.address) == once


def test_two_passes_equal_one(tmp_path, source, embedded):
    """A budget that the tensors do not fit into: Calibrate, then again with the ranges."""
    import numpy as np

    rng = np.random.default_rng(3)
    save_file({"w": rng.standard_normal((4096, 4096)).astype(np.float32)}, tmp_path / "w.safetensors")
    once = file_digest(tmp_path, tmp_path / "w.safetensors", "int8")
    with running_server(tmp_path / "s", "--memory", "32MiB") as server:
        plan = quantctl_json("plan", tmp_path / "w.safetensors", "--to", "int8", "--server",
                             server.address)
        assert plan["tensors"][0]["pass"] == "two_pass"
        twice = file_digest(tmp_path, tmp_path / "w.safetensors", "int8", "--server", server.address)
        assert twice == once
        # A pipe cannot be read twice, and says what to do.
        with open(tmp_path / "w.safetensors", "rb") as pipe_input:
            result = quantctl("quantize", "-", "--dtype", "f32", "--shape", "4096,4096", "-o",
                              tmp_path / "p.safetensors", "--to", "int8", "--server", server.address,
                              code=None, input=pipe_input.read()[-4096 * 4096 * 4:])
        assert result.returncode not in (0, -11, -6)
        assert b"range=" in result.stderr or b"calibrate" in result.stderr
        assert not (tmp_path / "p.safetensors").exists()
