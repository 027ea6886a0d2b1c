"""Bad input: a clear message, the documented exit code, and nothing left behind."""

import json
import os
import struct

import numpy as np
import pytest
from conftest import load_file, MODEL, error_of, quantctl
from safetensors.numpy import save_file


def refuse(nothing_left, source, spec="int8", *args, code=2, **kwargs):
    """Quantizes what must fail; returns the message."""
    return error_of("quantize", source, "-o", nothing_left / "o.safetensors", "--to", spec, *args,
                    code=code, **kwargs)


def test_unknown_scheme_lists_the_known(nothing_left, server):
    for extra in ([], ["--server", server.address]):
        message = refuse(nothing_left, MODEL, "int9", *extra)
        assert "int9" in message and "int8" in message and "nvfp4" in message


@pytest.mark.parametrize("spec, words", [
    ("int8:axes=0", ["axes", "axis"]),
    ("int8:axis=zero", ["axis", "zero"]),
    ("int8:axis=7", ["axis", "7"]),
    ("int8:group=0", ["group", "0"]),
    ("int8:axis=0,group=4", ["group"]),
    ("int8:mode=odd", ["mode", "odd", "symmetric"]),
    ("int8:round=nearest", ["round", "nearest", "half_even"]),
    ("int8:range=2..1", ["range"]),
    ("int8:range=guess", ["guess", "minmax"]),
    *((f"int8:range={text}", [f'"{text}"', "pN (N above 0, at most 100)", "mse", "entropy"])
      for text in ("p0", "p101", "pnan", "p", "mse1", "entropie")),
    *((f"int8:range={text}", [text, "p99.9"]) for text in ("p-1", "P99")),
    ("q8_0:range=p99", ["q8_0", "range="]),
    ("fp16:range=mse", ["fp16", "range="]),
    ("nf4:scale_type=nested8,range=mse", ["range=mse", "nested8", "scale_type=f32"]),
    ("int8:scale=-1", ["scale", "-1"]),
    ("int8:scale=nan", ["scale"]),
    ("fp16:axis=0", ["fp16"]),
    ("q8_0:mode=full", ["q8_0"]),
    ("", ["scheme"]),
    ("int8:scale=1,scale=2", ["scale"]),
])
def test_bad_spec(nothing_left, spec, words):
    message = refuse(nothing_left, MODEL, spec)
    for word in words:
        assert word in message, message


def test_group_that_does_not_divide(tmp_path, nothing_left):
    save_file({"w": np.ones((4, 100), np.float32)}, tmp_path / "w.safetensors")
    message = refuse(nothing_left, tmp_path / "w.safetensors", "int8:group=48")
    assert "48" in message and "100" in message and "w" in message
    message = refuse(nothing_left, tmp_path / "w.safetensors", "q8_0")
    assert "32" in message and "100" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_is_rejected_with_coordinates(tmp_path, nothing_left, server, value):
    x = np.ones((5, 7), np.float32)
    x[3, 2] = value
    save_file({"good": np.ones((2, 2), np.float32), "bad": x}, tmp_path / "w.safetensors")
    for extra in ([], ["--server", server.address]):
        message = refuse(nothing_left, tmp_path / "w.safetensors", "int8:nonfinite=reject", *extra)
        assert "bad" in message and "[3, 2]" in message


def test_non_finite_saturates_where_allowed(tmp_path):
    x = np.array([[1, np.nan, np.inf, -np.inf]], np.float32)
    save_file({"w": x}, tmp_path / "w.safetensors")
    out = tmp_path / "o.safetensors"
    text = quantctl("quantize", tmp_path / "w.safetensors", "-o", out, "--to",
                    "int8:scale=0.5,nonfinite=saturate").stdout.decode()
    np.testing.assert_array_equal(load_file(out)["w"], [[2, 0, 127, -128]])
    assert "finite" in text  # said, not hidden
    quantctl("quantize", tmp_path / "w.safetensors", "-o", out, "--to", "fp16:nonfinite=propagate")
    np.testing.assert_array_equal(load_file(out)["w"], x.astype(np.float16))


# --- Files ---------------------------------------------------------------------------------------


def header_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD_SAFETENSORS = {
    "empty": b"",
    "short": b"\x08\x00\x00",
    "header_past_end": struct.pack("<Q", 1000) + b"{}",
    "header_huge": struct.pack("<Q", 2**63) + b"{}",
    "not_json": header_file(b"{nonsense}"),
    "array": header_file(b"[]"),
    "deep": header_file(b'{"__metadata__":' + b"[" * 200000 + b"]" * 200000 + b"}"),
    "truncated": header_file({"w": entry([2, 4], 0, 32)}, bytes(31)),
    "trailing": header_file({"w": entry([2, 4], 0, 32)}, bytes(33)),
    "overlap": header_file({"a": entry([2, 4], 0, 32), "b": entry([2, 4], 16, 48)}, bytes(48)),
    "hole": header_file({"a": entry([2, 4], 0, 32), "b": entry([2, 4], 40, 72)}, bytes(72)),
    "lying_size": header_file({"w": entry([2, 5], 0, 32)}, bytes(32)),
    "backwards": header_file({"w": entry([2, 4], 32, 0)}, bytes(32)),
    "negative": header_file({"w": entry([-2, -4], 0, 32)}, bytes(32)),
    "overflow": header_file({"w": entry([2**62, 4], 0, 32)}, bytes(32)),
    "two_to_63": header_file({"w": entry([2**63], 0, 32)}, bytes(32)),
    "unknown_dtype": header_file({"w": entry([2, 4], 0, 32, "f 99")}, bytes(32)),
    "lying_foreign_size": header_file({"w": entry([2, 4], 0, 32, "C64")}, bytes(32)),
    "half_bytes": header_file({"w": entry([3], 0, 2, "F4")}, bytes(2)),
    "float_shape": header_file(b'{"w":{"dtype":"F32","shape":[2.5],"data_offsets":[0,10]}}', bytes(10)),
    "twice": header_file(b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                         b'"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', bytes(2)),
    "bad_utf8": header_file(b'{"\xff":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', bytes(1)),
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_bad_safetensors(tmp_path, nothing_left, name):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD_SAFETENSORS[name])
    message = refuse(nothing_left, path)
    assert "bad.safetensors" in message
    assert len(message) < 2000
    for command in ("inspect", "verify"):
        error_of(command, path, code=2)


def npy_file(header, data=b"", version=(1, 0)):
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + data


NPY = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"
BAD_NPY = {
    "object": npy_file(NPY.format("|O", "(3,)"), bytes(24)),
    "huge": npy_file(NPY.format("<f4", "(9223372036854775807, 4)")),
    "huge2": npy_file(NPY.format("<f4", "(4294967296, 4294967296)")),
    "negative": npy_file(NPY.format("<f4", "(-1,)"), bytes(4)),
    "truncated": npy_file(NPY.format("<f4", "(2, 4)"), bytes(31)),
    "big_endian_of_another_size": npy_file(NPY.format(">f4", "(2, 4)"), bytes(33)),
    "fortran_truncated": npy_file(NPY.format("<f4", "(2, 4)").replace("False", "True"), bytes(31)),
    "complex": npy_file(NPY.format("<c8", "(2, 4)"), bytes(64)),
    "not_a_dict": npy_file("__import__('os')", bytes(32)),
    "no_magic": b"NUMPY" + bytes(100),
    "header_past_end": b"\x93NUMPY\x01\x00\xff\xff{",
    "structured": npy_file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", bytes(8)),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_bad_npy(tmp_path, nothing_left, name):
    path = tmp_path / "bad.npy"
    path.write_bytes(BAD_NPY[name])
    assert "bad.npy" in refuse(nothing_left, path)


def test_raw_of_the_wrong_size(tmp_path, nothing_left):
    path = tmp_path / "w.bin"
    path.write_bytes(bytes(100))
    message = refuse(nothing_left, path, "int8", "--dtype", "f32", "--shape", "5,6")
    assert "100" in message and "120" in message
    assert "shape" in refuse(nothing_left, path, "int8", "--dtype", "f32")
    assert "f33" in refuse(nothing_left, path, "int8", "--dtype", "f33", "--shape", "5,5")
    refuse(nothing_left, path, "int8", "--dtype", "f32", "--shape", "4611686018427387904,4")
    refuse(nothing_left, path, "int8", "--dtype", "f32", "--shape=-5,5")


@pytest.mark.parametrize("size", [0, 3, 119, 121, 300])
def test_pipe_of_the_wrong_size(nothing_left, size, server):
    for extra in ([], ["--server", server.address]):
        for spec in ("int8", "int8:axis=0"):
            refuse(nothing_left, "-", spec, "--dtype", "f32", "--shape", "5,6", *extra,
                   input=bytes(size))


def test_missing_input_and_unwritable_output(tmp_path, nothing_left):
    assert "absent.safetensors" in refuse(nothing_left, tmp_path / "absent.safetensors", code=4)
    message = error_of("quantize", MODEL, "-o", tmp_path / "no" / "o.safetensors", "--to", "int8", code=4)
    assert "no" in message
    error_of("quantize", MODEL, "-o", tmp_path, "--to", "int8", code=None)
    if os.geteuid() != 0:
        nothing_left.chmod(0o500)
        refuse(nothing_left, MODEL, code=4)
        nothing_left.chmod(0o700)


def test_output_is_not_touched_by_an_error(tmp_path):
    out = tmp_path / "o.safetensors"
    out.write_bytes(b"precious")
    error_of("quantize", MODEL, "-o", out, "--to", "int8:group=7777", code=2)
    assert out.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["o.safetensors"]


@pytest.mark.parametrize("args", [
    [], ["quantise"], ["quantize"], ["quantize", "x"], ["quantize", "x", "-o", "y"],
    ["quantize", "x", "-o", "y", "--to", "int8", "--bogus"],
])
def test_usage(args):
    error = quantctl(*args, code=2)
    assert error.stderr or error.stdout


def test_bad_regex(nothing_left):
    assert "[" in refuse(nothing_left, MODEL, "int8", "--include", "[")


def test_include_that_matches_nothing(nothing_left):
    """Not silent: most likely a typing error."""
    result = quantctl("quantize", MODEL, "-o", nothing_left / "o.safetensors", "--to", "int8",
                      "--include", "no_such_tensor", code=None)
    assert result.returncode == 2 and b"include" in result.stderr


def test_server_is_still_well(server):
    quantctl("info", "--health", "--server", server.address)
