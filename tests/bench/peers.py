"""Times another project's quantizers on one thread beside ours, by turns; peers.sh calls it.

    python peers.py PROJECT CORE_BENCH
PROJECT is ggml, onnx, mlx or bitsandbytes. Prints a row of a Markdown table for each of ours: GB/s of f32
on 4 MiB, which stays in the cache, or on 256 MiB where memory is the matter (onnx); medians of five
rounds, and the ratios, whose spread is that of the rounds' own ratios. Bytes are equal, which tests/parity shows.
"""

import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

COLUMNS, ROUNDS = 4096, 5
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden"))


def ggml_peers(values):
    import libggml
    from make_ggml import FORMATS

    base = ctypes.CDLL(str(next(pathlib.Path(libggml.__file__).parent.rglob("libggml-base.so"))))
    base.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    codes, decoded = np.zeros(values.nbytes, np.uint8), np.zeros_like(values)
    for scheme, (number, _, _, name) in {"q8_0": (8, 32, 34, "q8_0"), **FORMATS}.items():
        ours = "mxfp4:dialect=ggml" if scheme == "mxfp4" else scheme
        yield (ours, lambda number=number: base.ggml_quantize_chunk(
                   number, pointer(values), pointer(codes), ctypes.c_int64(0), ctypes.c_int64(len(values)),
                   ctypes.c_int64(COLUMNS), None),
               lambda name=name: getattr(base, f"dequantize_row_{name}")(
                   pointer(codes), pointer(decoded), ctypes.c_int64(values.size)))


def onnx_peers(values):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(op, in_type, out_type):
        scale = numpy_helper.from_array(np.float32(0.01), "s")
        zero = numpy_helper.from_array(np.int8(0), "z")
        graph = helper.make_graph([helper.make_node(op, ["x", "s", "z"], ["y"])], "g",
                                  [helper.make_tensor_value_info("x", in_type, values.shape)],
                                  [helper.make_tensor_value_info("y", out_type, values.shape)], [scale, zero])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        made = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                            providers=["CPUExecutionProvider"])
        out = np.zeros(values.shape, np.int8 if op == "QuantizeLinear" else np.float32)
        binding = made.io_binding()
        source = values if op == "QuantizeLinear" else np.zeros(values.shape, np.int8)
        binding.bind_cpu_input("x", source)
        binding.bind_output("y", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
        return lambda keep=(source, out): made.run_with_iobinding(binding)

    yield ("int8:scale=0.01", session("QuantizeLinear", TensorProto.FLOAT, TensorProto.INT8),
           session("DequantizeLinear", TensorProto.INT8, TensorProto.FLOAT))


def mlx_peers(values):
    import mlx.core as mx

    x = mx.array(values)
    for bits in (2, 3, 4, 5, 6, 8):
        made = mx.quantize(x, group_size=64, bits=bits)
        mx.eval(made)
        yield (f"mlx_q{bits}", lambda bits=bits: mx.eval(mx.quantize(x, group_size=64, bits=bits)),
               lambda bits=bits, made=made: mx.eval(mx.dequantize(*made, group_size=64, bits=bits)))


def bitsandbytes_peers(values):
    import torch
    from bitsandbytes import functional

    torch.set_num_threads(1)
    x = torch.from_numpy(values.reshape(-1))
    for scheme in ("nf4", "fp4"):
        made = functional.quantize_4bit(x, blocksize=64, quant_type=scheme)
        yield (scheme, lambda scheme=scheme: functional.quantize_4bit(x, blocksize=64, quant_type=scheme),
               lambda made=made: functional.dequantize_4bit(*made))


PEERS = {"ggml": (ggml_peers, 4), "onnx": (onnx_peers, 256), "mlx": (mlx_peers, 4),
         "bitsandbytes": (bitsandbytes_peers, 4)}  # and MiB


def rate_of(call, num_bytes):
    """Returns the best GB/s of calls that take 0.2 s together, or of one."""
    best, end = float("inf"), time.monotonic() + 0.2
    while True:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        if time.monotonic() > end:
            return num_bytes / best / 1e9


def our_rates(core_bench, spec, mib):
    """Returns our GB/s of encoding, encoding with figures, and decoding."""
    rows = [f"{spec} encode", f"{spec} encode, figures", f"{spec} decode"]
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.json")
        names = "|".join(row.removeprefix(spec) for row in rows)
        subprocess.run([core_bench, f"--benchmark_filter=^{spec}({names})/{mib} MiB, 1 thread/", "--benchmark_min_time=0.1",
                        "--benchmark_repetitions=3", f"--json={out}"], check=True, stdout=subprocess.DEVNULL)
        with open(out) as file:
            found = {result["row"]: max(result["rates"]) for result in json.load(file)["results"]}
    return [found[row] for row in rows]


def main(project, core_bench):
    # The input of core_bench: uniform in -1..1.
    peers, mib = PEERS[project]
    values = np.random.default_rng(1).uniform(-1, 1, (mib * 64, COLUMNS)).astype(np.float32)
    for spec, encode, decode in peers(values):
        encode(), decode()  # which allocates
        rounds = []
        for _ in range(ROUNDS):
            theirs = rate_of(encode, values.nbytes), rate_of(decode, values.nbytes)
            rounds.append((*our_rates(core_bench, spec, mib), *theirs))
        ours, figures, our_decode, theirs, their_decode = map(statistics.median, zip(*rounds))
        ratios = [round[0] / round[3] for round in rounds]
        print(f"| `{spec}` | {project} | {ours:.2f} | {theirs:.3g} | {statistics.median(ratios):.1f} "
              f"({min(ratios):.1f} to {max(ratios):.1f}) | {figures / theirs:.1f} | {our_decode:.2f} | "
              f"{their_decode:.3g} | {our_decode / their_decode:.1f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
