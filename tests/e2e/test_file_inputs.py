"""Files as numpy, safetensors and others write them: read as they are meant, or refused with advice."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from conftest import error_of, load_file, quantctl, quantctl_json
from safetensors.numpy import save_file

RNG = np.random.default_rng(31)


def as_fp16(tmp_path, source, *args):
    """Quantizes to fp16, which keeps small integers, and returns the tensors."""
    out = tmp_path / "q.safetensors"
    quantctl("quantize", source, "-o", out, "--to", "fp16", *args)
    quantctl("verify", out, "--against", source)
    return load_file(out)


# --- npy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 32), (1, 40), (40, 1), (5,), (3, 4, 5), (2, 1, 3, 4), (300, 700)])
def test_fortran_order(tmp_path, shape):
    x = np.asfortranarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 2048)
    np.save(tmp_path / "a.npy", x)
    np.testing.assert_array_equal(as_fp16(tmp_path, tmp_path / "a.npy")["a"], x.astype(np.float16))


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", ">i2", ">u4", ">i8"])
def test_big_endian(tmp_path, dtype):
    x = np.arange(60).reshape(3, 20).astype(dtype)
    for name, array in {"c": x, "f": np.asfortranarray(x)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        found = as_fp16(tmp_path, tmp_path / f"{name}.npy")[name]
        np.testing.assert_array_equal(found, x.astype(np.float16))


def header_file(path, text, data, version=(1, 0)):
    text = text.encode("utf-8")
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    path.write_bytes(b"\x93NUMPY" + bytes(version) + length + text + data)


@pytest.mark.filterwarnings("ignore:Reading")  # of Python 2's
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("text", [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n",  # Python 2
    '{ "shape" :( 2,3 ,) , "fortran_order":False,"descr":"=f4"}',
    "{'fortran_order': False, 'descr': 'float32', 'shape': (2, 3)}   \n",
    "{'descr': 'f4', 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': 'single', 'fortran_order': False, 'shape': (2, 3)}",
])
def test_headers_that_numpy_reads(tmp_path, version, text):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    header_file(tmp_path / "a.npy", text, x.tobytes(), version)
    if "L" in text and version == (3, 0):
        pytest.skip("Python 2 wrote none, and numpy reads none")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), x)
    np.testing.assert_array_equal(as_fp16(tmp_path, tmp_path / "a.npy")["a"], x.astype(np.float16))


def test_scalar(tmp_path):
    np.save(tmp_path / "a.npy", np.float32(3.5))
    found = as_fp16(tmp_path, tmp_path / "a.npy")["a"]
    assert found.shape == () and found == 3.5


@pytest.mark.parametrize("array, advice", [
    (np.ones(3, np.complex64), "real and imaginary"),
    (np.array(["a"]), "numbers"),
    (np.array([1], "datetime64[s]"), "int64"),
    (np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), "fields"),
])
def test_arrays_that_are_not_read(tmp_path, nothing_left, array, advice):
    np.save(tmp_path / "a.npy", array)
    message = error_of("quantize", tmp_path / "a.npy", "-o", nothing_left / "o.safetensors", "--to",
                       "int8", code=2)
    assert "a.npy" in message and advice in message


def test_folder_that_numpy_wrote(tmp_path):
    folder, out = tmp_path / "parts", tmp_path / "q"
    folder.mkdir()
    arrays = {f"part_{i}": RNG.standard_normal((4, 8 + i)).astype(np.float32) for i in range(3)}
    arrays["turned"] = np.asfortranarray(RNG.standard_normal((5, 6)).astype(np.float32))
    for name, x in arrays.items():
        np.save(folder / f"{name}.npy", x)
    (folder / "notes.txt").write_text("not an array")
    quantctl("quantize", folder, "-o", out, "--format", "npy", "--to", "int8:axis=0")
    quantctl("verify", out, "--against", folder)
    quantctl("dequantize", out, "-o", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == set(arrays)
    for name, x in arrays.items():
        np.testing.assert_allclose(back[name], x, atol=np.abs(x).max() / 127)


def test_bf16_by_any_name(tmp_path):
    x = RNG.standard_normal((8, 32)).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "void.npy", x)
    header_file(tmp_path / "named.npy",
                "{'descr': 'bfloat16', 'fortran_order': False, 'shape': (8, 32), }", x.tobytes())
    packed = {}
    for name, args in {"void": ["--dtype", "bf16"], "named": []}.items():
        out = tmp_path / f"{name}.safetensors"
        quantctl("quantize", tmp_path / f"{name}.npy", *args, "-o", out, "--to", "int8:axis=0")
        quantctl("verify", out, "--against", tmp_path / f"{name}.npy")
        packed[name] = load_file(out)[name]
    np.testing.assert_array_equal(packed["void"], packed["named"])


# --- The original, whatever it was ---------------------------------------------------------------


def test_verify_against_bytes_without_a_header(tmp_path):
    x = RNG.standard_normal((16, 32)).astype(np.float32)
    out = tmp_path / "q.safetensors"
    for name in ("w.raw", "w.f32", "w.bin"):
        (tmp_path / name).write_bytes(x.tobytes())
        quantctl("quantize", tmp_path / name, "--dtype", "f32", "--shape", "16,32", "-o", out, "--to",
                 "int8:axis=0")
        report = quantctl_json("verify", out, "--against", tmp_path / name)
        assert report["ok"] and report["tensors"][0]["figures"]["sqnr_db"] > 30
    # A pipe's result, against a file of another name, and against the pipe again.
    quantctl("quantize", "-", "--dtype", "f32", "--shape", "16,32", "--name", "piped", "-o", out,
             "--to", "int8:axis=0", input=x.tobytes())
    quantctl("verify", out, "--against", tmp_path / "w.raw")
    quantctl("verify", out, "--against", "-", input=x.tobytes())
    (tmp_path / "short.raw").write_bytes(x.tobytes()[:-4])
    message = error_of("verify", out, "--against", tmp_path / "short.raw", code=2)
    assert "short.raw" in message and "2044" in message and "2048" in message


# --- safetensors ---------------------------------------------------------------------------------


def safetensors_file(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def header_of(path):
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])


def bytes_of(path, name):
    raw = path.read_bytes()
    begin, end = header_of(path)[name]["data_offsets"]
    values = 8 + struct.unpack("<Q", raw[:8])[0]
    return raw[values + begin : values + end]


@pytest.mark.parametrize("metadata", [None, {}])
def test_metadata_that_says_nothing(tmp_path, metadata):
    x = RNG.standard_normal((4, 8)).astype(np.float32)
    header = {"__metadata__": metadata, "w": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}}
    safetensors_file(tmp_path / "a.safetensors", header, x.tobytes())
    np.testing.assert_array_equal(as_fp16(tmp_path, tmp_path / "a.safetensors")["w"],
                                  x.astype(np.float16))


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("dtype, bits", [
    ("C64", 64), ("F8_E8M0", 8), ("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("NEW_TYPE_7", 24)])
def test_types_that_cannot_be_quantized_are_carried_on(tmp_path, dtype, bits, folder):
    kept = bytes(range(8 * bits // 8))
    w = RNG.standard_normal((4, 8)).astype(np.float32)
    end = len(kept) + w.nbytes
    header = {"z": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, len(kept)], "note": {"by": ["me"]}},
              "w": {"dtype": "F32", "shape": [4, 8], "data_offsets": [len(kept), end], "note": 7}}
    source, packed = tmp_path / "a.safetensors", tmp_path / ("q" if folder else "q.safetensors")
    back = tmp_path / "b.safetensors"
    safetensors_file(source, header, kept + w.tobytes())
    args = ["--format", "npy"] if folder else []
    report = quantctl_json("quantize", source, "-o", packed, "--to", "int8", *args)
    rows = {row["name"]: row for row in report["tensors"]}
    assert rows["z"]["dtype"] == dtype and not rows["z"]["quantized"] and dtype in rows["z"]["note"]
    assert {t["name"]: t["dtype"] for t in quantctl_json("inspect", packed)["tensors"]}["z"] == dtype
    quantctl("verify", packed, "--against", source)
    quantctl("dequantize", packed, "-o", back)
    for path in [back] if folder else [back, packed]:
        found = header_of(path)
        assert found["z"] == {**header["z"], "data_offsets": found["z"]["data_offsets"]}
        assert found["w"]["note"] == 7
        assert bytes_of(path, "z") == kept


def test_names_that_planes_would_have(tmp_path):
    arrays = {"x.weight": RNG.standard_normal((16, 32)).astype(np.float32),
              "x.weight.scale": RNG.standard_normal(16).astype(np.float32),
              "x.weight.scale.2": RNG.standard_normal((3, 32)).astype(np.float32),
              "y.weight": RNG.standard_normal((16, 32)).astype(np.float32)}
    source, packed, back = (tmp_path / f"{n}.safetensors" for n in "aqb")
    save_file(arrays, source)
    quantctl("quantize", source, "-o", packed, "--to", "int8:axis=0")
    np.testing.assert_array_equal(load_file(packed)["x.weight.scale"], arrays["x.weight.scale"])
    assert "y.weight.scale" in load_file(packed)
    quantctl("verify", packed, "--against", source)
    assert "scale of x.weight" in quantctl("inspect", packed).stdout.decode()
    quantctl("dequantize", packed, "-o", back)
    found = load_file(back)
    assert set(found) == set(arrays)
    for name, x in arrays.items():
        np.testing.assert_allclose(found[name], x, atol=np.abs(x).max() / 127)


def test_the_name_that_the_format_has_for_itself(tmp_path, nothing_left):
    source = tmp_path / "a.safetensors"
    save_file({"version": np.ones((2, 2), np.float32), "w": np.ones((2, 2), np.float32)}, source)
    message = error_of("quantize", source, "-o", nothing_left / "o.safetensors", "--to", "int8", code=2)
    assert "--exclude '^version$'" in message
    quantctl("quantize", source, "-o", tmp_path / "q.safetensors", "--to", "int8", "--exclude",
             "^version$")  # the advice works


# --- What is not read ----------------------------------------------------------------------------


def test_what_is_not_read_is_said_with_what_to_do(tmp_path, nothing_left):
    model = tmp_path / "model"
    model.mkdir()
    save_file({"w": np.ones((8, 8), np.float32)}, model / "model-00001-of-00001.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}))
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "a.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    cases = {model: "for f in", index: "each shard", tmp_path / "a.npz": "unzip",
             tmp_path / "a.gguf": ".safetensors", tmp_path / "a.pt": "torch.load",
             tmp_path / "pytorch_model.bin": "torch.load", tmp_path / "a.safetensors": "git lfs pull",
             tmp_path / "a.onnx": "onnx.load"}
    for path, advice in cases.items():
        for command in (["quantize", path, "-o", nothing_left / "o.safetensors", "--to", "int8"],
                        ["inspect", path], ["plan", path, "--to", "int8"], ["verify", path],
                        ["dequantize", path, "-o", nothing_left / "o.safetensors"]):
            message = error_of(*command, code=2)
            assert path.name in message and advice in message, message
