"""Files that mean harm: names that lead out of a folder, metadata that contradicts the planes."""

import json
import struct

import numpy as np
import pytest
from conftest import error_of, load_file, quantctl
from safetensors.numpy import save_file

X = np.arange(128, dtype=np.float32).reshape(4, 32)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "..", "a\nb", "a\0b", "é", "%2e"])
def test_names_stay_within_the_folder(tmp_path, name):
    source, folder, back = tmp_path / "i.safetensors", tmp_path / "o", tmp_path / "b.safetensors"
    save_file({name: X}, source)
    text = quantctl("quantize", source, "-o", folder, "--format", "npy", "--to", "int16").stdout
    assert b"\0" not in text and b"a\nb" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.safetensors", "o"]
    assert all(p.is_file() for p in folder.iterdir())
    quantctl("dequantize", folder, "-o", back)
    (restored,) = load_file(back).items()
    assert restored[0] == name
    np.testing.assert_allclose(restored[1], X, atol=0.01)


@pytest.mark.parametrize("change", [
    {"shape": [4, 31]}, {"shape": [2**62, 32]}, {"shape": [2**64 - 1]}, {"shape": [-1]},
    {"shape": [1e300]}, {"spec": "nf4"}, {"spec": "zzz"}, {"spec": 7}, {"dtype": "bool"},
    {"dtype": None}, {"digests": {}}, {"digests": {"codes": "xxh3:00", "scale": "xxh3:00"}},
    {"digests": {"codes": "xxh3:00", "other": "xxh3:00"}},
    {"tensors": []}, {"tensors": {"scale": 7}}, {"tensors": {"other": "w"}}, {"tensors": {"scale": "w"}},
    {"tensors": {"scale": "absent"}},
])
def test_metadata_that_lies(tmp_path, nothing_left, change):
    source, packed = tmp_path / "i.safetensors", tmp_path / "q.safetensors"
    save_file({"w": X}, source)
    quantctl("quantize", source, "-o", packed, "--to", "int8:axis=0")
    raw = packed.read_bytes()
    header_bytes = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + header_bytes])
    entry = {**json.loads(header["__metadata__"]["quantd.w"]), **change}
    header["__metadata__"]["quantd.w"] = json.dumps(entry)
    text = json.dumps(header).encode()
    packed.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + header_bytes :])
    error_of("dequantize", packed, "-o", nothing_left / "o.safetensors", code=2)
    assert quantctl("verify", packed, code=None).returncode in (1, 2)


def test_in_place(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": X}, path)
    quantctl("quantize", path, "-o", path, "--to", "int8", "--force")
    assert set(load_file(path)) == {"w", "w.scale"}
    quantctl("verify", path)


@pytest.mark.parametrize("change, message", [
    ({"spec": 7}, "w lacks spec, tensor or groups"),
    ({"tensor": [0]}, "w.tensor is no [min, max]"),
    ({"groups": [[1, 0]]}, "w.groups[0]=[1,0] is no range"),
    ({"histogram": 7}, "w.histogram is no list"),
    ({"histogram": [[65536, 1]]}, "w.histogram has [65536,1], which is no [bucket, count]"),
    ({"histogram": [[3, -1]]}, "w.histogram has [3,-1], which is no [bucket, count]"),
    ({"histogram": [[3, 1.5]]}, "w.histogram has [3,1.5], which is no [bucket, count]"),
    ({"histogram": [[32640, 1]]}, "w.histogram: "),  # a bucket of infinity
    ({"histogram": [[3, 2**63 - 1], [4, 1]]}, "w.histogram: "),
])
def test_ranges_that_lie(tmp_path, nothing_left, change, message):
    source, ranges = tmp_path / "i.safetensors", tmp_path / "r.json"
    save_file({"w": X}, source)
    quantctl("calibrate", source, "-o", ranges, "--to", "lloyd")
    document = json.loads(ranges.read_text())
    document["tensors"]["w"].update(change)
    ranges.write_text(json.dumps(document))
    out = nothing_left / "o.safetensors"
    error = error_of("quantize", source, "-o", out, "--to", "lloyd", "--ranges", ranges, code=2)
    assert message in error and str(ranges) in error
