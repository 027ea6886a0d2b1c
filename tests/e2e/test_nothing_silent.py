"""Values near a type's end, infinities, ranges, scales that are given, and inputs without work: what comes
back is what was asked for, or it is told."""

import json

import grpc
import numpy as np
import pytest
from conftest import error_of, load_file, quantctl, quantctl_json
from safetensors.numpy import save_file

LOWEST = np.finfo(np.float32).min
ROUGH = np.random.default_rng(13).standard_normal((2, 32)).astype(np.float32)


def packed(tmp_path, arrays, spec, *args):
    """Quantizes arrays; returns the packed file's path and the report of each tensor."""
    source, out = tmp_path / "x.safetensors", tmp_path / "q.safetensors"
    save_file(arrays, source)
    rows = quantctl_json("quantize", source, "-o", out, "--to", spec, *args)["tensors"]
    return out, {row["name"]: row for row in rows}


def back(tmp_path, path, *args):
    """Dequantizes a file; returns the arrays and the report of each tensor."""
    out = tmp_path / "back.safetensors"
    rows = quantctl_json("dequantize", path, "-o", out, *args)["tensors"]
    return load_file(out), {row["name"]: row for row in rows}


# --- The ends of types ---


@pytest.mark.parametrize("spec", [
    "int8", "int8:mode=full", "int8:mode=asymmetric", "int8:dialect=compressed_tensors", "int8:axis=0",
    "int8:scale_type=pow2", "int16", "uint8", "uint4", "int4:group=32", "fp8_e4m3:per=tensor", "bf16", "fp16",
    "nf4", "nf4:scale_type=nested8", "nvfp4", "q8_0", "lloyd", "mlx_q3", "fbgemm_rowwise8"])
def test_a_mask_of_the_lowest_float(tmp_path, spec):
    mask = np.triu(np.full((64, 64), LOWEST, np.float32), 1)
    path, rows = packed(tmp_path, {"mask": mask}, spec)
    values, told = back(tmp_path, path)
    y = values["mask"]
    assert np.isfinite(y).all()
    assert np.abs(y[np.tril_indices(64)]).max() <= -LOWEST * 1e-6
    assert told["mask"]["saturated"] == 0
    if rows["mask"]["clipped"] == 0:
        assert (y[np.triu_indices(64, 1)] < LOWEST * 0.99).all()
    verified = quantctl_json("verify", path, "--against", tmp_path / "x.safetensors")["tensors"][0]
    assert verified["figures"]["max_error"] == np.abs(mask.astype(np.float64) - y).max()


def test_what_f16_does_not_hold_is_counted(tmp_path):
    """q8_0's scale is an f16: 127 times 516, for 65504 / 127 rounded, is 65532."""
    x = np.full((1, 32), 65504, np.float16)
    x[0, :3] = [1, -65504, 0]
    path, _ = packed(tmp_path, {"w": x}, "q8_0")
    values, rows = back(tmp_path, path)
    assert values["w"].dtype == np.float16 and np.isfinite(values["w"]).all()
    assert values["w"][0, 1] == -65504 and values["w"][0, 5] == 65504
    assert rows["w"]["saturated"] == 30 and rows["w"]["dtype"] == "f16"
    wide, rows = back(tmp_path, path, "--dtype", "f32")
    assert wide["w"][0, 5] == 127 * 516 and rows["w"]["saturated"] == 0
    text = quantctl("dequantize", path, "-o", tmp_path / "b.safetensors").stdout.decode()
    assert "30 beyond f16's largest" in text
    # verify is about what dequantize gives.
    row = quantctl_json("verify", path, "--against", tmp_path / "x.safetensors")["tensors"][0]
    assert row["compared_as"] == "f16" and row["saturated"] == 30 and row["ok"]
    error = x.astype(np.float64) - values["w"].astype(np.float64)
    assert row["figures"]["error_energy"] == pytest.approx((error**2).sum(), abs=1e-9)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_narrowing_f64(tmp_path, dtype):
    x = np.array([[1e300, -1e300, 1e39, 70000, 1, 0]])
    path, _ = packed(tmp_path, {"w": x}, "int16:range=-1e42..1e42")
    values, rows = back(tmp_path, path, "--dtype", dtype)
    y = values["w"] if dtype != "bf16" else (values["w"].astype(np.uint32) << 16).view(np.float32)
    assert np.isfinite(y).all() and rows["w"]["saturated"] >= 2
    assert y[0, 0] == -y[0, 1] > 0


def test_infinities_that_were_asked_for_stay(tmp_path):
    x = np.array([[np.inf, -np.inf, np.nan, 1e30, 1]], np.float32)
    path, _ = packed(tmp_path, {"w": x}, "fp16:nonfinite=propagate")
    values, rows = back(tmp_path, path)
    np.testing.assert_array_equal(values["w"], [[np.inf, -np.inf, np.nan, np.inf, 1]])
    assert rows["w"]["saturated"] == 0


def test_unary_calls_count_too(stubs, server):
    pb, services = stubs
    tensor = pb.TensorDescriptor(name="w", data_type=pb.DATA_TYPE_F32, shape=[1, 32])
    spec = pb.QuantizationSpec(text="q8_0")
    x = np.full((1, 32), 65504, np.float32)
    with grpc.insecure_channel(server.address) as channel:
        stub = services.QuantizationServiceStub(channel)
        made = stub.Quantize(pb.QuantizeRequest(
            start=pb.QuantizeStart(tensor=tensor, spec=spec), data=x.tobytes()))
        start = pb.DequantizeStart(tensor=tensor, spec=spec, output_data_type=pb.DATA_TYPE_F16)
        got = stub.Dequantize(pb.DequantizeRequest(start=start, planes=made.planes))
    assert got.finished.saturated == 32
    assert (np.frombuffer(got.data, np.float16) == 65504).all()


# --- Infinities ---


@pytest.mark.parametrize("spec, least_db", [
    ("q8_0", 40), ("int8:group=32", 40), ("int8:axis=0", 40), ("int8:block=1x16", 40), ("nf4", 15),
    ("nvfp4", 15), ("uint4:group=32", 15), ("fp8_e4m3:axis=0", 25), ("lloyd", 15)])
def test_an_infinity_costs_its_neighbours_nothing(tmp_path, spec, least_db):
    x = ROUGH.copy()
    x[0, 5], x[1, 7] = np.inf, -np.inf
    separator = "," if ":" in spec else ":"
    path, rows = packed(tmp_path, {"w": x}, f"{spec}{separator}nonfinite=saturate")
    y = back(tmp_path, path)[0]["w"]
    finite = np.isfinite(x)
    error = ((x[finite] - y[finite]) ** 2).sum()
    assert 10 * np.log10((x[finite] ** 2).sum() / error) > least_db
    assert rows["w"]["non_finite"] == 2 and rows["w"]["clipped"] >= 2
    assert y[0, 5] > 0.6 * np.delete(x[0, :16], 5).max()
    assert y[1, 7] < 0.6 * np.delete(x[1, :16], 7).min()


def test_a_block_of_infinities_alone(tmp_path):
    x = np.zeros((1, 64), np.float32)
    x[0, 3], x[0, 4] = np.inf, np.nan
    path, _ = packed(tmp_path, {"w": x}, "q8_0:nonfinite=saturate")
    y = back(tmp_path, path)[0]["w"]
    assert y[0, 3] == 127 * 65504 and not np.delete(y, 3).any()


def test_advice_is_not_to_use_what_the_scheme_lacks(tmp_path):
    save_file({"w": np.full((1, 64), np.inf, np.float32)}, tmp_path / "x.safetensors")
    args = ["quantize", tmp_path / "x.safetensors", "-o", tmp_path / "q.safetensors", "--to"]
    assert "nonfinite=saturate" in error_of(*args, "int8", code=2)
    message = error_of(*args, "mlx_q3", code=2)
    assert "[0, 0]" in message and "nonfinite" not in message


# --- Scales that are given ---


@pytest.mark.parametrize("spec, stored", [
    ("int8:scale=0.1", np.float32(0.1)),
    ("int8:scale=0.1,scale_type=f16", np.float16(0.1)),
    ("int8:scale=0.02,scale_type=pow2", np.float32(2.0**-6)),
    ("uint4:scale=0.25,zero=3", np.float32(0.25)),
])
def test_the_recorded_scale_is_the_stored_one(tmp_path, spec, stored):
    path, rows = packed(tmp_path, {"w": ROUGH}, spec)
    recorded = float(rows["w"]["spec"].split("scale=")[1].split(",")[0])
    assert recorded == float(stored)
    assert load_file(path)["w.scale"].reshape(-1)[0] == stored
    # What is far from what was asked is told of.
    far = abs(float(stored) - float(spec.split("scale=")[1].split(",")[0])) > 1e-5
    assert ("stored as" in rows["w"]["note"]) == far


@pytest.mark.parametrize("spec, words", [
    ("int8:scale=1e-46", ["scale=1e-46", "f32"]),
    ("int8:scale=1e300", ["scale=1e+300", "f32"]),
    ("int8:scale=1e-8,scale_type=f16", ["f16", "5.96"]),
    ("uint8:scale=1,zero=256", ["zero=256", "0 to 255"]),
    ("int16:scale=1,zero=-32769", ["zero=-32769", "-32768 to 32767"]),
])
def test_what_its_type_cannot_hold_is_refused(tmp_path, nothing_left, spec, words):
    save_file({"w": ROUGH}, tmp_path / "x.safetensors")
    message = error_of("quantize", tmp_path / "x.safetensors", "-o", nothing_left / "q.safetensors",
                       "--to", spec, code=2)
    for word in words:
        assert word in message


def test_small_magnitudes_keep_their_codes(tmp_path):
    """bitsandbytes and compressed-tensors have no least scale."""
    x = np.float32(3e-39) * np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
    for spec, share in [("nf4", 0.2), ("fp8_e4m3:axis=0,dialect=compressed_tensors", 0.04)]:
        path, _ = packed(tmp_path, {"w": x}, spec)
        y = back(tmp_path, path)[0]["w"]
        np.testing.assert_allclose(y, x, rtol=0, atol=share * 3e-39)


def test_f16_scales_of_small_weights(tmp_path):
    """ONNX Runtime keeps subnormal f16 scales: weights of 0.001 have 7.9e-6."""
    x = (ROUGH * 3e-4).astype(np.float32)
    path, rows = packed(tmp_path, {"w": x}, "int8:axis=0,scale_type=f16")
    absmax = np.abs(x).max(1).astype(np.float64)
    np.testing.assert_array_equal(load_file(path)["w.scale"].ravel(), (absmax / 127).astype(np.float16))
    assert rows["w"]["figures"]["sqnr_db"] > 38


# --- Ranges ---


@pytest.fixture
def sample(tmp_path):
    """Embeddings: a sample with its ranges by column, and a shard of another name and length."""
    rng = np.random.default_rng(5)
    np.save(tmp_path / "sample.npy", (rng.standard_normal((1000, 32)) * 0.05).astype(np.float32))
    np.save(tmp_path / "shard_1.npy", (rng.standard_normal((300, 32)) * 0.08).astype(np.float32))
    quantctl("calibrate", tmp_path / "sample.npy", "--to", "int8:axis=1", "-o", tmp_path / "r.json")
    return tmp_path


def quantize_shard(folder, *args, spec="int8:axis=1"):
    return ["quantize", folder / "shard_1.npy", "-o", folder / "q.safetensors", "--to", spec,
            "--ranges", folder / "r.json", *args]


def test_ranges_of_another_name_are_not_dropped(sample):
    message = error_of(*quantize_shard(sample), code=2)
    for word in ["shard_1", "sample", "r.json", "--ranges-of"]:
        assert word in message
    assert not (sample / "q.safetensors").exists()


def test_ranges_of_a_sample(sample):
    report = quantctl_json(*quantize_shard(sample, "--ranges-of", "sample"))
    calibrated, data = np.load(sample / "sample.npy"), np.load(sample / "shard_1.npy")
    scale = (np.abs(calibrated).max(0).astype(np.float64) / 127).astype(np.float32)
    planes = load_file(sample / "q.safetensors")
    np.testing.assert_array_equal(planes["shard_1.scale"], scale)
    np.testing.assert_array_equal(planes["shard_1"], np.clip(np.rint(data / scale), -127, 127))
    assert report["tensors"][0]["clipped"] > 0
    assert "nosuch" in error_of(*quantize_shard(sample, "--ranges-of", "nosuch"), code=2)


@pytest.mark.parametrize("spec, words", [
    ("int8:axis=0", ["axis=1", "axis=0"]),
    ("int8:axis=1,range=3sigma", ["range=minmax", "range=3sigma"]),
    ("int8:axis=1,range=-1..1", ["exclude each other"]),
    ("int8:axis=1,scale=0.1", ["exclude each other"]),
    ("fp16", ["takes no calibrated ranges"]),
])
def test_ranges_for_something_else(sample, spec, words):
    message = error_of(*quantize_shard(sample, "--ranges-of", "sample", spec=spec), code=2)
    for word in words:
        assert word in message
    assert not (sample / "q.safetensors").exists()


def test_ranges_of_other_groups_of_the_same_number(tmp_path):
    save_file({"w": np.ones((8, 32), np.float32)}, tmp_path / "a.safetensors")
    save_file({"w": np.ones((4, 64), np.float32)}, tmp_path / "b.safetensors")
    spec = ["--to", "int8:group=16"]
    quantctl("calibrate", tmp_path / "a.safetensors", *spec, "-o", tmp_path / "r.json")
    message = error_of("quantize", tmp_path / "b.safetensors", *spec, "-o", tmp_path / "q.safetensors",
                       "--ranges", tmp_path / "r.json", code=2)
    assert "[8, 32]" in message and "[4, 64]" in message


def test_a_set_of_a_model_for_one_of_its_files(tmp_path):
    rng = np.random.default_rng(3)
    arrays = {name: rng.standard_normal((4, 8)).astype(np.float32) for name in "abc"}
    save_file(arrays, tmp_path / "all.safetensors")
    save_file({"b": arrays["b"]}, tmp_path / "part.safetensors")
    ranges = tmp_path / "r.json"
    quantctl("calibrate", tmp_path / "all.safetensors", "--to", "int8", "-o", ranges)
    args = ["quantize", tmp_path / "part.safetensors", "-o", tmp_path / "q.safetensors", "--to", "int8",
            "--ranges", ranges]
    assert quantctl_json(*args)["unused_ranges"] == ["a", "c"]
    assert "2 tensors" in quantctl(*args).stdout.decode()
    document = json.loads(ranges.read_text())
    assert document["tensors"]["b"]["shape"] == [4, 8]
    del document["tensors"]["b"]["shape"]
    ranges.write_text(json.dumps(document))
    assert "calibrate again" in error_of(*args, code=2)


def test_ranges_over_the_wire_carry_what_they_are_for(stubs, server):
    pb, services = stubs
    x = np.ones((8, 32), np.float32)

    def start(name, shape, spec, ranges=None):
        tensor = pb.TensorDescriptor(name=name, data_type=pb.DATA_TYPE_F32, shape=shape)
        return dict(tensor=tensor, spec=pb.QuantizationSpec(text=spec), ranges=ranges)

    with grpc.insecure_channel(server.address) as channel:
        stub = services.QuantizationServiceStub(channel)
        head = start("w", [8, 32], "int8:group=16")
        ranges = stub.Calibrate(iter([
            pb.CalibrateRequest(start=pb.CalibrateStart(tensor=head["tensor"], spec=head["spec"])),
            pb.CalibrateRequest(chunk=pb.Chunk(data=x.tobytes())),
            pb.CalibrateRequest(end=pb.TensorEnd())])).ranges
        assert ranges.source.name == "w" and "group=16" in ranges.resolved_spec

        def quantize(*args):
            return stub.Quantize(pb.QuantizeRequest(
                start=pb.QuantizeStart(**start(*args, ranges)), data=x.tobytes()))

        quantize("w", [8, 32], "int8:group=16")
        for other, words in [(("w", [4, 64], "int8:group=16"), ["[8, 32]", "[4, 64]"]),
                             (("v", [8, 32], "int8:group=16"), ['"w"', '"v"']),
                             (("w", [8, 32], "int8:group=32"), ["group=16", "group=32"]),
                             (("w", [8, 32], "q8_0"), ["q8_0"])]:
            with pytest.raises(grpc.RpcError) as raised:
                quantize(*other)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            for word in words:
                assert word in raised.value.details()
        ranges.source.name = ""
        quantize("v", [8, 32], "int8:group=16")


# --- Nothing to do ---


def test_nothing_to_quantize_is_an_error(tmp_path, nothing_left):
    rng = np.random.default_rng(9)
    save_file({"ids": np.arange(4), "bias": np.ones(4, np.float32)}, tmp_path / "small.safetensors")
    save_file({"w": rng.standard_normal((4, 8)).astype(np.float32)}, tmp_path / "w.safetensors")
    np.save(tmp_path / "u64.npy", rng.integers(0, 9, (4, 4)).astype(np.uint64))
    np.save(tmp_path / "f8.npy", np.zeros((4, 4), "V1"))
    out = ["-o", nothing_left / "q.safetensors"]
    for name, args, words in [
        ("small.safetensors", [], ["rank 1", "integers", "--include"]),
        ("u64.npy", [], ["uint64", "conversion"]),
        ("f8.npy", ["--dtype", "f8_e4m3"], ["f8_e4m3"]),
        ("w.safetensors", ["--exclude", "w"], ["excluded"]),
        ("w.safetensors", ["--to", "q4_k:incompatible=keep"], ["256"]),
    ]:
        to = [] if "--to" in args else ["--to", "int8"]
        message = error_of("quantize", tmp_path / name, *args, *to, *out, code=2)
        for word in ["nothing to quantize", *words]:
            assert word in message
        if "q4_k" not in " ".join(args):
            error_of("calibrate", tmp_path / name, *args, *to, code=2)


def test_included_tensors_that_cannot_be_quantized(tmp_path, nothing_left):
    save_file({"flags": np.ones((2, 2), bool), "w": np.ones((4, 8), np.float32)}, tmp_path / "x.safetensors")
    args = ["quantize", tmp_path / "x.safetensors", "-o", nothing_left / "q.safetensors", "--to", "int8"]
    message = error_of(*args, "--include", "flags|w", code=2)
    for word in ["flags", "bool", "--include", "--exclude"]:
        assert word in message
    quantctl(*args[:3], tmp_path / "q.safetensors", *args[4:], "--include", "flags|w", "--exclude", "flags")


# --- Figures that are there ---


def test_verify_measures_what_it_reports(tmp_path):
    x = (np.random.default_rng(2).standard_normal((100, 130)) + 3).astype(np.float32)
    path, rows = packed(tmp_path, {"w": x, "none": np.zeros((0, 4), np.float32)}, "int8:axis=0")
    verified = quantctl_json("verify", path, "--against", tmp_path / "x.safetensors")["tensors"]
    figures = {row["name"]: row["figures"] for row in verified}
    for key in ["mean", "std_dev", "min", "max", "max_error", "sqnr_db", "cosine", "mse", "count"]:
        assert figures["w"][key] == pytest.approx(rows["w"]["figures"][key], rel=1e-6), key
    assert figures["w"]["max_error_elem"] == rows["w"]["figures"]["max_error_elem"]
    assert figures["w"]["mean"] == pytest.approx(x.astype(np.float64).mean(), rel=1e-9)
    for of_none in (figures["none"], rows["none"]["figures"]):
        assert of_none["count"] == 0
        assert all(of_none[key] is None for key in ["mean", "std_dev", "min", "max", "max_error", "sqnr_db"])
    statistics = quantctl_json("calibrate", tmp_path / "x.safetensors", "--to", "int8")["tensors"]
    statistics = {row["name"]: row["statistics"] for row in statistics}
    assert "mean" not in statistics["none"] and "mean" in statistics["w"]


# --- Two schemes in one model ---


def test_a_second_run_quantizes_the_rest(tmp_path, server):
    """What the first has made is carried on as it is, and both come back by their own schemes."""
    x = {"head": ROUGH, "l.0": ROUGH[::-1].copy(), "bias": np.ones(4, np.float32)}
    first, _ = packed(tmp_path, x, "fp8_e4m3:group=16", "--include", "head")
    again = tmp_path / "again.safetensors"
    rows = quantctl_json("quantize", first, "-o", again, "--to", "uint4:group=32", "--server", server.address)
    notes = {row["name"]: row.get("note") for row in rows["tensors"]}
    assert not notes["l.0"] and notes["head"] == notes["head.scale"] == "kept: quantized already"
    before, after = load_file(first), load_file(again)
    assert all(after[name].tobytes() == before[name].tobytes() for name in ("head", "head.scale", "bias"))
    quantctl("verify", again, "--against", tmp_path / "x.safetensors")
    arrays, rows = back(tmp_path, again)
    assert set(arrays) == set(x) and arrays["bias"].tobytes() == x["bias"].tobytes()
    assert abs(arrays["head"] - x["head"]).max() < 0.15 and abs(arrays["l.0"] - x["l.0"]).max() < 0.3
    message = error_of("quantize", again, "-o", tmp_path / "no.safetensors", "--to", "int8", code=2)
    assert "quantized already" in message and not (tmp_path / "no.safetensors").exists()
