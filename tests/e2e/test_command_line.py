"""The command line: options, what is meant by a wrong word, JSON documents of results and errors."""

import json
import os
import subprocess

import numpy as np
import pytest
from conftest import MODEL, QUANTCTL, clean_env, error_of, load_file, quantctl, quantctl_json
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "a.safetensors"
    save_file({"a.weight": np.eye(8, 32, dtype=np.float32), "b.weight": np.ones((4, 32), np.float32),
               "v.weight": np.ones((2, 32), np.float32)}, path)
    return path


@pytest.mark.parametrize("command", ["quantize", "plan", "calibrate"])
@pytest.mark.parametrize("options", [
    ["--include", "^a"], ["--include=^a"], ["--include", "^a", "--include", "^b"],
    ["--exclude", "^v"], ["--exclude=^v", "--include", "weight"],
])
def test_options_before_input_leave_it_alone(tmp_path, small, command, options):
    output = [] if command == "plan" else ["-o", tmp_path / "q.safetensors"]
    before = quantctl_json(command, *options, small, *output, "--to", "int8")
    after = quantctl_json(command, small, *output, "--to", "int8", *options)
    names = lambda report: [row["name"] for row in report["tensors"] if row.get("quantized", True)]
    assert names(before) == names(after) and "a.weight" in names(before)
    want = {"a.weight", "b.weight", "v.weight"}
    if "^v" in " ".join(options):
        want -= {"v.weight"}
    elif "^b" in options:
        want = {"a.weight", "b.weight"}
    else:
        want = {"a.weight"}
    assert set(names(before)) == want


def test_every_option_of_a_command_may_stand_before_input(tmp_path, small):
    out = tmp_path / "q.safetensors"
    quantctl("-q", "quantize", "--to", "int8", "-o", out, "--format", "safetensors", "--no-figures",
             "--threads", "1", "--memory", "1GiB", "--timeout", "60", small)
    quantctl("verify", "--against", small, out)
    quantctl("dequantize", "--dtype", "f32", "-o", tmp_path / "b.safetensors", out)
    quantctl("--json", "inspect", out)


def test_files_may_be_called_like_commands_and_options(tmp_path, small):
    for name in ("plan", "quantize", "-x.safetensors"):
        (tmp_path / name).write_bytes(small.read_bytes())
        quantctl("inspect", "--", name, cwd=tmp_path)
    quantctl("inspect", "plan", cwd=tmp_path)


@pytest.mark.parametrize("args, meant", [
    (["quantise", "x"], "quantize"),
    (["Quantize", "x"], "quantize"),
    (["inspct", "x"], "inspect"),
    (["quantize", "x", "-o", "y", "--to", "int8", "--inclde", "z"], "--include"),
    (["--sever", "x", "info"], "--server"),
])
def test_wrong_words_say_what_is_meant(args, meant):
    message = error_of(*args, code=2)
    assert args[0] in message or "--" in message
    assert f"did you mean {meant}?" in message


def test_an_unknown_command_lists_the_known():
    message = error_of("frobnicate", code=2)
    assert "frobnicate" in message and "did you mean" not in message
    for command in ("quantize", "dequantize", "inspect", "verify", "plan", "calibrate"):
        assert command in message


@pytest.mark.parametrize("spec, meant", [
    ("INT8", "did you mean int8?"), ("Int-8:axis=0", "did you mean int8?"), ("int7", "did you mean int8?"),
    ("int8:axes=0", "did you mean axis?"),
    ("int8:per=axis", "axis=0"), ("int8:per=channel", "axis=0"), ("int8:per=row", "group=-1"),
    ("int8:per=group", "group="),
])
def test_wrong_specs_say_what_is_meant(small, server, spec, meant):
    for extra in ([], ["--server", server.address]):
        message = error_of("plan", small, "--to", spec, *extra, code=2)
        assert meant in message, message


@pytest.mark.parametrize("dtype, meant", [
    ("float32", "f32"), ("F32", "f32"), ("torch.bfloat16", "bf16"), ("half", "f16"), ("u8", "uint8")])
def test_wrong_types_say_what_is_meant(tmp_path, small, dtype, meant):
    message = error_of("quantize", "-", "--dtype", dtype, "--shape", "2x2", "-o", tmp_path / "q.safetensors",
                       "--to", "int8", code=2, input=b"")
    assert f"did you mean {meant}?" in message and dtype in message


@pytest.mark.parametrize("server, words", [
    ("localhost", "localhost:7717"), ("10.0.0.1", "10.0.0.1:7717"), ("::1", "[::1]:7717"),
    ("http://localhost:7717", "use localhost:7717"), ("localhost:port", "port"), ("localhost:0", "1 to 65535"),
])
def test_an_address_without_port_says_so(server, words):
    message = error_of("info", "--server", server, code=2)
    assert server in message and words in message


COMMANDS = {
    "quantize": lambda small, out: [small, "-o", out, "--to", "int8:axis=0,incompatible=keep"],
    "plan": lambda small, out: [small, "--to", "int8:axis=0"],
    "calibrate": lambda small, out: [small, "--to", "int8:axis=0"],
    "verify": lambda small, out: [out, "--against", small],
    "dequantize": lambda small, out: [out, "-o", out.with_suffix(".back.safetensors")],
    "inspect": lambda small, out: [small],
}


def test_documents_agree(tmp_path, small):
    """Each says which command it is of and lists tensors in one form; sizes have one name."""
    out = tmp_path / "q.safetensors"
    for command, args in COMMANDS.items():
        report = quantctl_json(command, *args(small, out))
        assert report["command"] == command
        assert report["input"] == str(args(small, out)[0])
        assert isinstance(report["tensors"], list)
        for row in report["tensors"]:
            assert row["name"] in ("a.weight", "b.weight", "v.weight")
            assert row["dtype"] == "f32" and len(row["shape"]) == 2
        if command in ("quantize", "plan", "verify", "dequantize"):
            assert report["totals"]["tensors"] == len(report["tensors"])
            for key in ("before_bytes", "after_bytes"):
                assert report["totals"][key] == sum(row[key] for row in report["tensors"]), command
    for command in ("info", "schemes"):
        assert quantctl_json(command)["command"] == command
    assert quantctl_json("schemes", "--keys")["command"] == "schemes"
    assert quantctl_json("token", "alice")["command"] == "token"


@pytest.mark.parametrize("args, code, name", [
    (["inspect", "absent.safetensors"], 4, "NOT_FOUND"),
    (["plan", MODEL, "--to", "int8:axis=9"], 2, "INVALID_ARGUMENT"),
    (["plan", MODEL, "--to", "int99"], 2, "NOT_FOUND"),
    (["info", "--server", "localhost"], 2, "INVALID_ARGUMENT"),
    (["verify", MODEL], 2, None),
    (["quantise", "x"], 2, "INVALID_ARGUMENT"),
    (["quantize", MODEL], 2, "INVALID_ARGUMENT"),
    (["plan", MODEL, "--to", "int8", "--bogus"], 2, "INVALID_ARGUMENT"),
])
def test_errors_are_documents_too(args, code, name):
    """On stdout, where the result would have been; stderr has the line for people as ever."""
    for line in (["--json", *args], [*args, "--json"]):
        result = quantctl(*line, code=code)
        document = json.loads(result.stdout)
        assert document["error"]["exit_code"] == code
        assert name is None or document["error"]["code"] == name
        assert document["error"]["message"] in result.stderr.decode()
        if args[0] != "quantise":
            assert document["command"] == args[0]
    assert quantctl(*args, code=code).stdout == b""


def test_without_loss_is_not_beyond_measure(tmp_path):
    """Both have no SQNR; they are told apart in the table and in JSON."""
    save_file({"exact": 127 * np.eye(4, 32, dtype=np.float64), "huge": np.full((4, 32), 1.5e200) * np.arange(1, 33),
               "zeros": np.zeros((4, 32))}, tmp_path / "m.safetensors")
    args = ["quantize", tmp_path / "m.safetensors", "-o", tmp_path / "q.safetensors", "--to", "int8:axis=0"]
    rows = {row["name"]: row for row in quantctl_json(*args)["tensors"]}
    for name, lossless, overflowed in (("exact", True, False), ("zeros", True, False)):
        assert rows[name]["figures"]["lossless"] == lossless
        assert rows[name]["figures"]["overflowed"] == overflowed
        assert rows[name]["figures"]["sqnr_db"] is None
    text = quantctl(*args).stdout.decode()
    assert "lossless" in next(line for line in text.split("\n") if line.startswith("exact"))
    if rows["huge"]["figures"]["overflowed"]:
        assert rows["huge"]["figures"]["lossless"] is False
        assert "overflow" in next(line for line in text.split("\n") if line.startswith("huge"))


def test_the_report_of_a_mistake_stays_out_of_the_data(small):
    for output in (["-o", "-"], ["--output=-"]):
        result = quantctl("quantize", small, *output, "--json", "--to", "int8", "--bogus", code=2)
        assert result.stdout == b""
        assert json.loads(result.stderr[result.stderr.index(b"{"):])["error"]["exit_code"] == 2
    document = json.loads(quantctl("schemes", "--definitions", "--json").stdout)
    assert document["command"] == "schemes" and document["definitions"].startswith("# ")
