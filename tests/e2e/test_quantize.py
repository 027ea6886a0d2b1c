"""quantctl quantize: values, names, what is kept, inputs and outputs of each kind."""

import json

import numpy as np
import pytest
import reference
from conftest import load_file, MODEL, error_of, quantctl, quantctl_json
from safetensors import safe_open
from safetensors.numpy import save_file


def quantized_names(arrays):
    """What is quantized unless told otherwise: floats of rank 2 and more."""
    return [n for n, a in arrays.items() if a.ndim >= 2 and a.dtype.kind == "f"]


def metadata_of(path):
    with safe_open(path, "np") as file:
        return file.metadata()


def check_kept(out, arrays, names):
    for name in names:
        assert out[name].dtype == arrays[name].dtype and out[name].shape == arrays[name].shape
        assert out[name].tobytes() == arrays[name].tobytes(), name
        assert f"{name}.scale" not in out


def test_model_per_tensor(tmp_path, model):
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", MODEL, "-o", out_path, "--to", "int8")
    out = load_file(out_path)
    names = quantized_names(model)
    assert len(names) >= 5
    for name in names:
        codes, scale = reference.int8_per_tensor(model[name])
        np.testing.assert_array_equal(out[name], codes, err_msg=name)
        assert out[f"{name}.scale"].dtype == np.float32
        assert out[f"{name}.scale"].tobytes() == scale.tobytes(), name
    kept = set(model) - set(names)
    check_kept(out, model, kept)
    assert set(out) == set(model) | {f"{n}.scale" for n in names}


def test_model_over_tcp_per_axis(tmp_path, model, server):
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", MODEL, "-o", out_path, "--to", "int8:axis=0", "--server", server.address)
    out = load_file(out_path)
    for name in quantized_names(model):
        codes, scale = reference.int8_axis0(model[name])
        np.testing.assert_array_equal(out[name], codes, err_msg=name)
        assert out[f"{name}.scale"].tobytes() == scale.tobytes(), name


@pytest.mark.parametrize("group", [16, 48])
def test_groups_with_short_tail(tmp_path, made, group):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", f"int8:group={group},tail=short")
    out = load_file(out_path)
    for name in ["block.weight", "embed", "half", "odd", "zeros"]:
        codes, scale = reference.int8_group(arrays[name], group)
        np.testing.assert_array_equal(out[name], codes, err_msg=name)
        assert out[f"{name}.scale"].tobytes() == scale.tobytes(), name
    assert out["empty"].shape == (0, 32)


def test_f64_is_not_narrowed_first(tmp_path, made):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "int8", "--include", "double")
    out = load_file(out_path)
    codes, scale = reference.int8_per_tensor(arrays["double"])
    np.testing.assert_array_equal(out["double"], codes)
    assert out["double.scale"].tobytes() == scale.tobytes()
    check_kept(out, arrays, set(arrays) - {"double"})


def test_uint8_asymmetric(tmp_path, made):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "uint8:axis=0,mode=asymmetric",
             "--include", "^(block.weight|odd)$")
    out = load_file(out_path)
    for name in ["block.weight", "odd"]:
        x = arrays[name]
        scale, zero = reference.asymmetric_params(x.min(1), x.max(1), 0, 255)
        assert out[f"{name}.scale"].tobytes() == scale.tobytes()
        np.testing.assert_array_equal(out[f"{name}.zero_point"], zero)
        assert out[f"{name}.zero_point"].dtype == np.uint8
        want = reference.codes_of(x, scale[:, None], zero[:, None], 0, 255)
        np.testing.assert_array_equal(out[name], want)


def test_fp16_is_numpy_s(tmp_path, made):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "fp16")
    out = load_file(out_path)
    for name in quantized_names(arrays):
        assert out[name].dtype == np.float16
        np.testing.assert_array_equal(out[name], arrays[name].astype(np.float16), err_msg=name)
    assert not [n for n in out if n.endswith(".scale")]


def test_given_scale(tmp_path, made):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "int8:scale=0.02", "--include", "odd")
    want = reference.codes_of(arrays["odd"], np.float32(0.02), 0, -128, 127)
    np.testing.assert_array_equal(load_file(out_path)["odd"], want)


def test_include_and_exclude(tmp_path, made):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "int8", "--exclude", "block|embed")
    out = load_file(out_path)
    scales = {n[: -len(".scale")] for n in out if n.endswith(".scale")}
    assert scales == set(quantized_names(arrays)) - {"block.weight", "embed"}
    # Rank 0, rank 1 and integers are quantized if they are named.
    quantctl("quantize", path, "-o", out_path, "--to", "int8", "--include", "bias|ids|step")
    out = load_file(out_path)
    for name in ["block.bias", "ids", "step"]:
        codes, scale = reference.int8_per_tensor(arrays[name].astype(np.float64)
                                                 if name == "ids" else arrays[name])
        np.testing.assert_array_equal(out[name], codes, err_msg=name)
        assert out[f"{name}.scale"].tobytes() == scale.tobytes(), name
    check_kept(out, arrays, set(arrays) - {"block.bias", "ids", "step"})


def test_table_and_figures(tmp_path, made):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    text = quantctl("quantize", path, "-o", out_path, "--to", "int8:axis=0").stdout.decode()
    for name in arrays:
        assert name in text
    assert "SQNR" in text and "cosine" in text.lower() and "kept" in text.lower()
    out = load_file(out_path)
    x = arrays["block.weight"]
    y = out["block.weight"].astype(np.float32) * out["block.weight.scale"].reshape(-1, 1)
    shown = next(line for line in text.splitlines() if "block.weight" in line)
    assert f"{reference.sqnr_db(x, y):.2f}" in shown


def test_json_figures(tmp_path, made):
    path, arrays = made
    out_path = tmp_path / "out.safetensors"
    report = quantctl_json("quantize", path, "-o", out_path, "--to", "int8:axis=0")
    out = load_file(out_path)
    rows = {row["name"]: row for row in report["tensors"]}
    assert set(rows) == set(arrays)
    for name in ["block.weight", "embed", "odd"]:
        x = arrays[name]
        scale = out[f"{name}.scale"].reshape(-1, *[1] * (x.ndim - 1))
        y = out[name].astype(np.float32) * scale
        figures = rows[name]["figures"]
        assert figures["sqnr_db"] == pytest.approx(reference.sqnr_db(x, y), abs=1e-3)
        assert figures["cosine"] == pytest.approx(reference.cosine(x, y), abs=1e-9)
        assert figures["count"] == x.size and figures["max_error"] == np.abs(
            x.astype(np.float64) - y).max()
        assert rows[name]["clipped"] == 0 and rows[name]["quantized"]
    assert not rows["ids"]["quantized"] and "kept" in rows["ids"]["note"]
    # The sizes are those of the file.
    for name, row in rows.items():
        assert row["after_bytes"] == sum(a.nbytes for n, a in out.items()
                                         if n == name or n == f"{name}.scale")


def test_metadata(tmp_path, made):
    path, _ = made
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", path, "-o", out_path, "--to", "int8:axis=0", "--include", "^odd$")
    metadata = metadata_of(out_path)
    assert metadata["author"] == "tests"
    assert metadata["author"] == "tests"
    entry = json.loads(metadata["quantd.odd"])
    assert entry["spec"].startswith("int8:axis=0,") and "mode=symmetric" in entry["spec"]
    assert entry["dtype"] == "f32" and entry["shape"] == [7, 13]
    out = load_file(out_path)
    assert entry["digests"] == {"codes": reference.digest(out["odd"].tobytes()),
                                "scale": reference.digest(out["odd.scale"].tobytes())}
    assert set(k for k in metadata if k.startswith("quantd.")) == {"quantd.version", "quantd.odd"}
    # The resolved spec gives the same bytes again.
    again = tmp_path / "again.safetensors"
    quantctl("quantize", path, "-o", again, "--to", entry["spec"], "--include", "^odd$")
    assert again.read_bytes() == out_path.read_bytes()


def test_a_packed_file_is_not_packed_again(tmp_path, made, nothing_left):
    quantctl("quantize", made[0], "-o", tmp_path / "q.safetensors", "--to", "int8")
    message = error_of("quantize", tmp_path / "q.safetensors", "-o", nothing_left / "o.safetensors",
                       "--to", "int8", code=2)
    assert "dequantize" in message


def test_two_runs_give_one_file(tmp_path, made):
    path, _ = made
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    for out_path in (first, second):
        quantctl("quantize", path, "-o", out_path, "--to", "int8:group=16,tail=short")
    assert first.read_bytes() == second.read_bytes()


def test_an_existing_output_is_replaced(tmp_path, made):
    path, _ = made
    out_path = tmp_path / "out.safetensors"
    out_path.write_bytes(b"old")
    quantctl("quantize", path, "-o", out_path, "--to", "int8")
    assert "odd.scale" in load_file(out_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors"]


def test_collision_of_names(tmp_path):
    path, out_path = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({"w": np.ones((2, 4), np.float32), "w.scale": np.full(1, 7, np.float32)}, path)
    quantctl("quantize", path, "-o", out_path, "--to", "int8")
    planes = load_file(out_path)
    assert set(planes) == {"w", "w.scale", "w.scale.2"} and planes["w.scale"] == 7


def test_npy_input_and_output(tmp_path, made):
    _, arrays = made
    x = arrays["odd"]
    np.save(tmp_path / "odd.npy", x)
    codes, scale = reference.int8_axis0(x)
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", tmp_path / "odd.npy", "-o", out_path, "--to", "int8:axis=0")
    out = load_file(out_path)
    assert set(out) == {"odd", "odd.scale"}
    np.testing.assert_array_equal(out["odd"], codes)

    folder = tmp_path / "planes"
    quantctl("quantize", tmp_path / "odd.npy", "--format", "npy", "-o", folder, "--to", "int8:axis=0")
    planes = {p.stem: np.load(p) for p in folder.glob("*.npy")}
    assert set(planes) == {"odd", "odd.scale"}
    np.testing.assert_array_equal(planes["odd"], codes)
    np.testing.assert_array_equal(planes["odd.scale"].ravel(), scale)


def test_fortran_order_npy(tmp_path, made):
    _, arrays = made
    np.save(tmp_path / "f.npy", np.asfortranarray(arrays["odd"]))
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", tmp_path / "f.npy", "-o", out_path, "--to", "int8")
    codes, _ = reference.int8_per_tensor(arrays["odd"])
    np.testing.assert_array_equal(load_file(out_path)["f"], codes)


def test_raw_input(tmp_path, made):
    _, arrays = made
    raw = tmp_path / "odd.bin"
    raw.write_bytes(arrays["odd"].tobytes())
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", raw, "--dtype", "f32", "--shape", "7,13", "-o", out_path, "--to", "int8")
    codes, _ = reference.int8_per_tensor(arrays["odd"])
    np.testing.assert_array_equal(load_file(out_path)["odd"], codes)


@pytest.mark.parametrize("spec", ["int8:axis=0", "int8:group=13", "fp16", "int8:per=tensor"])
def test_pipe_equals_file(tmp_path, made, spec):
    _, arrays = made
    x = arrays["odd"]
    outputs = []
    for source, stdin in [(tmp_path / "odd.bin", None), ("-", x.tobytes())]:
        (tmp_path / "odd.bin").write_bytes(x.tobytes())
        out_path = tmp_path / "out.safetensors"
        quantctl("quantize", source, "--dtype", "f32", "--shape", "7,13", "-o", out_path, "--to", spec,
                 input=stdin)
        out = load_file(out_path)
        outputs.append(sorted((n[n.find("."):] if "." in n else "", a.tobytes())
                              for n, a in out.items()))
    assert outputs[0] == outputs[1]


def test_bf16_raw(tmp_path):
    values = np.array([[1.0, -2.5, 0.125, 3.0]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    out_path = tmp_path / "out.safetensors"
    quantctl("quantize", "-", "--dtype", "bf16", "--shape", "1,4", "-o", out_path, "--to", "int8",
             input=bits.tobytes())
    out = load_file(out_path)
    codes, _ = reference.int8_per_tensor(values)
    np.testing.assert_array_equal(next(a for n, a in out.items() if not n.endswith("scale")), codes)
