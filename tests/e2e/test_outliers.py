"""outliers=K and scale_type=dyadic16 from outside: what they gain, by numpy alone, and files that carry them."""

import json
import struct

import numpy as np
import pytest
from conftest import error_of, load_file, quantctl, quantctl_json
from safetensors.numpy import save_file


def heavy_tailed():
    """Weights with a few values far out in each row, as those of transformers have."""
    rng = np.random.default_rng(17)
    x = rng.standard_normal((96, 1024)).astype(np.float32)
    for row in x:
        row[rng.choice(1024, 4, replace=False)] *= 40
    return x


def sqnr(x, y):
    error = x.astype(np.float64) - y.astype(np.float64)
    return 10 * np.log10(np.square(x, dtype=np.float64).sum() / np.square(error).sum())


def int4_rows(x):
    """int4:axis=0 by numpy: symmetric, codes -7 to 7."""
    scale = (np.abs(x).max(axis=1, keepdims=True).astype(np.float64) / 7).astype(np.float32)
    return np.clip(np.rint(x / scale), -7, 7) * scale


@pytest.fixture
def source(tmp_path):
    x = heavy_tailed()
    path = tmp_path / "in.safetensors"
    save_file({"w": x}, path)
    return path, x


def test_signal_to_noise_is_what_numpy_finds(source, tmp_path):
    path, x = source
    order = np.argsort(-np.abs(x), axis=1, kind="stable")[:, :4]
    rest = x.copy()
    np.put_along_axis(rest, order, 0, axis=1)
    whole = int4_rows(rest)
    np.put_along_axis(whole, order, np.take_along_axis(x, order, axis=1), axis=1)
    plain, better = sqnr(x, int4_rows(x)), sqnr(x, whole)
    assert better > plain + 15  # 25.6 and 8.5
    for spec, expected in (("int4:axis=0", plain), ("int4:axis=0,outliers=4", better)):
        packed = tmp_path / f"{spec}.safetensors"
        (row,) = quantctl_json("quantize", path, "-o", packed, "--to", spec)["tensors"]
        assert abs(row["figures"]["sqnr_db"] - expected) < 0.001, (spec, row["figures"], expected)
        back = tmp_path / "back.safetensors"
        quantctl("dequantize", packed, "-o", back)
        assert abs(sqnr(x, load_file(back)["w"]) - expected) < 0.001
    # What they cost: 4 bytes of index and 4 of value, of 1024 values.
    assert row["after_bytes"] == 96 * (512 + 4 + 4 * 8)


@pytest.mark.parametrize("name", ["packed.safetensors", "packed"])
def test_files_carry_the_planes(source, tmp_path, name, server):
    path, x = source
    packed, folder = tmp_path / name, "." not in name
    quantctl("quantize", path, "-o", packed, "--to", "int8:outliers=3,scale_type=dyadic16",
             "--server", server.address, *(["--format", "npy"] if folder else []))
    quantctl("verify", packed, "--against", path)
    rows = {row["name"]: row for row in quantctl_json("inspect", packed)["tensors"]}
    assert set(rows) == {"w", "w.multiplier", "w.shift", "w.outlier_index", "w.outlier_value"}
    assert rows["w.outlier_index"]["shape"] == rows["w.outlier_value"]["shape"] == [96, 3]
    back = tmp_path / "back.safetensors"
    quantctl("dequantize", packed, "-o", back, "--server", server.address)
    y, order = load_file(back)["w"], np.argsort(-np.abs(x), axis=1, kind="stable")[:, :3]
    kept = np.take_along_axis(y, order, axis=1)
    assert kept.tobytes() == np.take_along_axis(x, order, axis=1).tobytes()


def test_indices_that_are_none_are_refused(source, tmp_path):
    path, _ = source
    packed = tmp_path / "packed.safetensors"
    quantctl("quantize", path, "-o", packed, "--to", "int8:outliers=3")
    data = bytearray(packed.read_bytes())
    (size,) = struct.unpack("<Q", data[:8])
    begin, _ = json.loads(data[8 : 8 + size])["w.outlier_index"]["data_offsets"]
    struct.pack_into("<3I", data, 8 + size + begin + 5 * 12, 1, 2, 1024)
    packed.write_bytes(data)
    message = error_of("dequantize", packed, "-o", tmp_path / "back.safetensors", code=None)
    assert "outlier_index 1024 of row 5 is not allowed; use 0 to 1023" in message
    assert error_of("verify", packed, code=None)


def test_plan_says_what_does_not_go(tmp_path):
    long = tmp_path / "long.safetensors"
    save_file({"w": np.zeros((2, 70000), np.float32)}, long)
    message = error_of("plan", long, "--to", "int8:outliers=1", code=None)
    assert "within 65536 elements" in message and "[2, 70000]" in message
    assert "has, which is 70000" in error_of("plan", long, "--to", "int8:outliers=70001", code=None)
