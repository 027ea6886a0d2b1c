"""dequantize, inspect, verify, plan, calibrate, schemes, info: what they print and give."""

import json
import re
import shutil

import numpy as np
import pytest
import reference
from conftest import load_file, MODEL, error_of, quantctl, quantctl_json
from safetensors.numpy import save_file
SCHEMES = ["int8", "uint8", "int16", "uint4", "int4", "uint16", "int2", "int3", "int5", "int6", "uint2", "uint3",
           "uint5", "uint6", "int32", "int64", "fp16", "bf16", "f32", "f64", "fp8_e4m3", "fp8_e5m2", "fp6_e2m3",
           "fp6_e3m2", "fp4_e2m1", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "nf4", "fp4", "nvfp4",
           "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8", "fbgemm_rowwise8",
           "fbgemm_rowwise4", "fbgemm_rowwise2", "lloyd", "mlx_q2", "mlx_q3", "mlx_q4", "mlx_q5", "mlx_q6", "mlx_q8",
           "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "bits", "binary", "ternary", "pow2"]
# In dB; others keep more than 5. Few levels over the whole range of a tensor with outliers say little,
# nor do casts of weights of which many lie below the format's least value, and signs nothing of magnitudes.
LEAST_SQNR = {"int2": 0, "int3": 2, "int4": 3, "uint2": 0.4, "uint3": 3, "fp6_e2m3": 3, "fp4_e2m1": 2,
              "fbgemm_rowwise2": 4, "int32": 140, "fp8_e5m2": 20, "bits": -40,
              "binary": 0, "ternary": 0}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, made):
    """`made` in int8 by rows: its path, the original's path, the original arrays."""
    path, arrays = made
    out_path = tmp_path_factory.mktemp("quantized") / "q.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "int8:axis=0")
    return out_path, path, arrays


def test_version_and_help():
    assert re.search(rb"\d+\.\d+\.\d+", quantctl("--version").stdout)
    text = quantctl("--help").stdout.decode()
    for command in ["quantize", "dequantize", "inspect", "verify", "plan", "calibrate", "schemes",
                    "info"]:
        assert command in text
        assert quantctl(command, "--help").stdout
    assert "xit code" in text


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_dequantize(tmp_path, quantized, dtype):
    path, _, arrays = quantized
    out_path = tmp_path / "back.safetensors"
    quantctl("dequantize", path, "-o", out_path, "--dtype", dtype)
    planes, back = load_file(path), load_file(out_path)
    assert set(back) == set(arrays)
    numpy_type = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": np.uint16}[dtype]
    for name, x in arrays.items():
        if f"{name}.scale" not in planes:
            assert back[name].tobytes() == x.tobytes(), name
            continue
        # int8 x f32 is exact in f64, so that every type is rounded once.
        scale = planes[f"{name}.scale"].astype(np.float64).reshape(-1, *[1] * (x.ndim - 1))
        want = planes[name].astype(np.float64) * scale
        want = reference.bf16_bits(want) if dtype == "bf16" else want.astype(numpy_type)
        assert back[name].dtype == numpy_type and back[name].shape == x.shape
        assert back[name].tobytes() == want.tobytes(), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_round_trip_of_the_model(tmp_path, scheme, server):
    """Each scheme there and back over TCP; whatever fits it comes back close."""
    out_path, back_path = tmp_path / "q.safetensors", tmp_path / "back.safetensors"
    report = quantctl_json("quantize", MODEL, "-o", out_path, "--server", server.address,
                           "--to", f"{scheme}:incompatible=keep")
    quantctl("dequantize", out_path, "-o", back_path, "--server", server.address)
    original, back = load_file(MODEL), load_file(back_path)
    assert set(back) == set(original)
    for row in report["tensors"]:
        x, y = original[row["name"]], back[row["name"]]
        assert y.shape == x.shape and y.dtype == x.dtype
        if not row["quantized"]:
            assert x.tobytes() == y.tobytes()
            continue
        if np.array_equal(x, y):  # rows of one element have it as their bias
            assert row["figures"].get("sqnr_db") is None
            assert scheme in ("fbgemm_rowwise8", "int32", "int64", "f32", "f64")
            continue
        # What was reported is what the values that come back have, and that is not little.
        assert row["figures"]["sqnr_db"] == pytest.approx(reference.sqnr_db(x, y), abs=1e-3)
        assert row["figures"]["sqnr_db"] > LEAST_SQNR.get(scheme, 5)
        # Both are float32, and so is their difference.
        assert row["figures"]["max_error"] == np.abs(x - y).max()
    verify = quantctl("verify", out_path, "--against", MODEL)
    assert verify.stdout


def test_inspect(quantized):
    path, _, arrays = quantized
    text = quantctl("inspect", path).stdout.decode()
    for name in arrays:
        assert name in text
    assert "int8:axis=0" in text
    parsed = quantctl_json("inspect", path)
    assert {row["name"] for row in parsed["tensors"]} >= set(arrays)
    assert {row["name"] for row in parsed["quantized"]} == {
        n for n, a in arrays.items() if a.ndim >= 2 and a.dtype.kind == "f"}
    # A file that quantd did not write.
    text = quantctl("inspect", MODEL).stdout.decode()
    for name, x in load_file(MODEL).items():
        assert name in text
    assert "f32" in text.lower()


def test_verify_passes(quantized):
    path, original, _ = quantized
    quantctl("verify", path)
    parsed = quantctl_json("verify", path, "--against", original)
    assert {row["name"] for row in parsed["tensors"]} >= {"odd", "block.weight"}
    text = quantctl("verify", path, "--against", original).stdout.decode()
    assert "odd" in text


@pytest.mark.parametrize("victim", ["odd", "odd.scale"])
def test_verify_finds_a_flipped_bit(tmp_path, quantized, victim):
    path, _, _ = quantized
    broken = tmp_path / "broken.safetensors"
    shutil.copy(path, broken)
    data = bytearray(broken.read_bytes())
    header_bytes = int.from_bytes(data[:8], "little")
    begin = json.loads(data[8 : 8 + header_bytes])[victim]["data_offsets"][0]
    data[8 + header_bytes + begin] ^= 1
    broken.write_bytes(data)
    result = quantctl("verify", broken, code=1)
    assert "odd" in (result.stdout + result.stderr).decode()
    parsed = json.loads(quantctl("verify", broken, "--json", code=1).stdout)
    assert parsed


def test_verify_against_another_original(tmp_path, quantized):
    path, original, arrays = quantized
    changed = dict(arrays, odd=arrays["odd"] * 2)
    save_file(changed, tmp_path / "other.safetensors")
    report = quantctl_json("verify", path, "--against", tmp_path / "other.safetensors", code=None)
    row = next(row for row in report["tensors"] if row["name"] == "odd")
    back = load_file(path)["odd"] * load_file(path)["odd.scale"].reshape(-1, 1)
    assert row["figures"]["sqnr_db"] == pytest.approx(
        reference.sqnr_db(changed["odd"], back), abs=1e-3)


def test_verify_of_what_is_not_ours():
    message = error_of("verify", MODEL, code=2)
    assert "quantized" in message


def test_plan(tmp_path, made, server):
    path, arrays = made
    texts = []
    for extra in ([], ["--server", server.address]):
        plan = quantctl_json("plan", path, "--to", "int8:group=16,tail=short", *extra)
        rows = {row["name"]: row for row in plan["tensors"]}
        row = rows["block.weight"]
        assert row["after_bytes"] == 24 * 64 + 24 * 4 * 4
        assert row["pass"] == "local" and row["groups"] == 24 * 4
        assert sum(plane["size_bytes"] for plane in row["planes"]) == row["after_bytes"]
        texts.append(json.dumps(rows, sort_keys=True))
    assert texts[0] == texts[1]
    text = quantctl("plan", path, "--to", "int8:group=16,tail=short").stdout.decode()
    assert "local" in text and "block.weight" in text
    # It says what quantize then does.
    out_path = tmp_path / "o.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "int8:group=16,tail=short")
    out = load_file(out_path)
    for name, row in rows.items():
        if f"{name}.scale" in out:
            assert row["after_bytes"] == out[name].nbytes + out[f"{name}.scale"].nbytes


def test_calibrate(tmp_path, made, server):
    path, arrays = made
    results = []
    for extra in ([], ["--server", server.address]):
        report = quantctl_json("calibrate", path, "--to", "int8:axis=0", *extra)
        results.append({row["name"]: row for row in report["tensors"]})
    assert results[0] == results[1]
    for name in ["block.weight", "embed", "odd"]:
        rows = arrays[name].reshape(len(arrays[name]), -1).astype(np.float64)
        want = np.stack([rows.min(1), rows.max(1)], axis=1)
        np.testing.assert_array_equal(results[0][name]["groups"], want)
        assert results[0][name]["tensor"] == [rows.min(), rows.max()]
        assert results[0][name]["statistics"]["mean"] == pytest.approx(rows.mean(), rel=1e-6)
    assert b"block.weight" in quantctl("calibrate", path, "--to", "int8:axis=0").stdout


@pytest.mark.parametrize("spec", ["int8", "int8:axis=2,incompatible=keep", "nvfp4:incompatible=keep", "lloyd",
                                  "int8:range=p99.9", "uint4:range=mse", "uint8:range=entropy",
                                  "int8:axis=1,range=p90", "uint4:axis=1,range=mse", "int8:axis=1,range=entropy"])
def test_calibrated_ranges_give_the_same_bytes(tmp_path, made, spec):
    path, _ = made
    select = ["--include", "^embed$"]
    direct, ranged, ranges = tmp_path / "1.safetensors", tmp_path / "2.safetensors", tmp_path / "r.json"
    quantctl("calibrate", path, "--to", spec, "-o", ranges, *select)
    assert json.loads(ranges.read_text())["tensors"]["embed"]
    quantctl("quantize", path, "-o", direct, "--to", spec, *select)
    quantctl("quantize", path, "-o", ranged, "--to", spec, "--ranges", ranges, *select)
    assert direct.read_bytes() == ranged.read_bytes()


def test_schemes(server):
    text = quantctl("schemes").stdout.decode()
    for name in SCHEMES:
        assert re.search(rf"\b{name}\b", text)
    local = quantctl_json("schemes")
    remote = quantctl_json("schemes", "--server", server.address)
    assert local == remote
    assert [row["name"] for row in local["schemes"]] == SCHEMES


def test_info(server):
    info = quantctl_json("info", "--server", server.address)
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["version"])
    assert info["simd_target"] in ("avx512", "avx2", "sse4", "neon", "scalar")
    assert quantctl_json("info")["version"] == info["version"]
    assert info["version"] in quantctl("info", "--server", server.address).stdout.decode()


def test_health(server, unix_server):
    quantctl("info", "--health", "--server", server.address)
    quantctl("info", "--health", "--server", unix_server.address)
    quantctl("info", "--health", "--server", "127.0.0.1:1", code=1, timeout=60)


def test_environment_names_the_server(server):
    info = quantctl_json("info", env={"QUANTD_SERVER": server.address})
    assert info["server"] == server.address
    error_of("info", code=3, env={"QUANTD_SERVER": "127.0.0.1:1"}, timeout=60)


def test_dequantize_json(tmp_path, made):
    path, _ = made
    packed, back = tmp_path / "packed.safetensors", tmp_path / "back.safetensors"
    quantctl("quantize", path, "-o", packed, "--to", "int8")
    report = quantctl_json("dequantize", packed, "-o", back)
    assert {row["name"] for row in report["tensors"]} <= set(load_file(back))
