"""Makes the golden files of this folder: what other projects' code gives for stated inputs.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_golden.py [affine floats q8_0 nf4]

The make_PROJECT.py beside it do the same with one other project each, and share GoldenFile.

Each file is a safetensors file of cases. `__metadata__` has `command`, `source` (whose bytes they
are, with versions) and, for each case, `case:NAME` -> {"spec": ..., "input": key of the values,
"shape": [...]}. Tensor `NAME/PLANE` is the
plane that the case must give, byte for byte; `NAME/values` is what decoding it to f32 must give;
where that would be large the case has the SHA-256 of it, "values_sha256". `NAME/importance` is no
plane but a second input: the weight of each column. A case without an input is decoded only;
`all_codes` has the codes 0 ... 65535. Never regenerate to get a test green.
"""

import ctypes
import hashlib
import importlib.metadata
import json
import pathlib
import struct
import sys

import ml_dtypes
import numpy as np

HERE = pathlib.Path(__file__).parent
COMMAND = "python tests/golden/make_golden.py"
FLT_MIN = float(np.finfo(np.float32).tiny)
FLT_MAX = float(np.finfo(np.float32).max)


def versions(*packages):
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def sha256_f32(values):
    return hashlib.sha256(np.asarray(values).astype("<f4").tobytes()).hexdigest()


class GoldenFile:
    """Collects cases and writes them as one safetensors file."""

    def __init__(self, name, source, command=COMMAND):
        self.path = HERE / f"{name}.safetensors"
        self.metadata = {"command": command, "source": source}
        self.tensors = {}

    def share(self, key, values):
        """Stores an input that several cases use."""
        self.tensors[key] = np.ascontiguousarray(values)
        return key

    def add(self, name, spec, shape, values=None, shared=None, planes=None, decoded=None,
            digest=False):
        """Adds a case; `values` is its input, or `shared` the key of one.

        With `digest`, only the SHA-256 of the decoded values is kept."""
        case = {"spec": spec, "shape": list(shape)}
        if values is not None:
            shared = self.share(f"{name}/input", values)
        if shared is not None:
            case["input"] = shared
        for plane, data in (planes or {}).items():
            self.tensors[f"{name}/{plane}"] = np.ascontiguousarray(data)
        if decoded is not None and digest:
            case["values_sha256"] = sha256_f32(decoded)
        elif decoded is not None:
            self.tensors[f"{name}/values"] = np.ascontiguousarray(decoded, dtype=np.float32)
        self.metadata[f"case:{name}"] = json.dumps(case)

    def add_all_codes(self, spec, values):
        """Adds the decoding of all 16-bit codes."""
        case = {"spec": spec, "shape": [65536], "values_sha256": sha256_f32(values)}
        self.metadata["case:all_codes"] = json.dumps(case)

    def write(self):
        # By hand: the safetensors package orders metadata at random, and a second run must give the
        # same file.
        header, data = {"__metadata__": self.metadata}, b""
        names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
                 "uint32": "U32", "uint16": "U16", "int16": "I16", "int8": "I8", "uint8": "U8"}
        for key, tensor in sorted(self.tensors.items(), key=lambda item: -item[1].itemsize):
            begin, data = len(data), data + tensor.tobytes()
            header[key] = {"dtype": names[tensor.dtype.name], "shape": list(tensor.shape),
                           "data_offsets": [begin, len(data)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        print(self.path.name, self.path.stat().st_size, len(self.metadata) - 2, "cases")


# --- Affine integers: onnxruntime -----------------------------------------------------------------

AFFINE = {  # code type in numpy, in ONNX, bits, signed
    "int8": (np.int8, "INT8", 8, True),
    "uint8": (np.uint8, "UINT8", 8, False),
    "int16": (np.int16, "INT16", 16, True),
    "uint4": (np.uint8, "UINT4", 4, False),
}


def run_onnx(scheme, x, scale, zero, **attributes):
    """Returns onnxruntime's codes (int32) of x, and what it decodes them to."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    code_type = getattr(TensorProto, AFFINE[scheme][1])
    scale = np.asarray(scale, np.float32)
    zero = np.asarray(zero)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("Cast", ["q"], ["codes"], to=TensorProto.INT32),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [
            helper.make_tensor_value_info("codes", TensorProto.INT32, x.shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
        ],
        [
            numpy_helper.from_array(scale, "s"),
            helper.make_tensor("z", code_type, zero.shape, zero.ravel().tolist()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    # Left alone, the optimizer folds the two nodes into nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def pack_codes(scheme, codes):
    """Returns the codes plane: uint4 has two codes in a byte, the first in the low nibble."""
    if scheme != "uint4":
        return codes.astype(AFFINE[scheme][0])
    flat = codes.astype(np.uint8).ravel()
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return flat[0::2] | flat[1::2] << 4


def round_scale(scale):
    """Rounds scales in double once to f32, inside its normal range; 0 stands for an all-zero group."""
    scale = np.where(scale == 0, 1.0, np.clip(scale, FLT_MIN, FLT_MAX))
    return scale.astype(np.float32)


def derive(scheme, mode, low, high):
    """Returns the scales (f32) and zero points that groups with these ranges have to get."""
    _, _, bits, signed = AFFINE[scheme]
    qmin = -(2 ** (bits - 1)) if signed else 0
    low, high = low.astype(np.float64), high.astype(np.float64)
    if mode == "asymmetric":
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = round_scale((high - low) / (2**bits - 1))
        zero = np.rint(qmin - low / scale.astype(np.float64))
        return scale, np.clip(zero, qmin, qmin + 2**bits - 1).astype(np.int64)
    steps = (2**bits - 1) / 2 if mode == "full" else 2 ** (bits - 1) - 1
    scale = round_scale(np.maximum(np.abs(low), np.abs(high)) / steps)
    return scale, np.full(scale.shape, 0 if signed else 2 ** (bits - 1), np.int64)


def block_ranges(x, group):
    """Returns min and max over runs of `group` elements on the last axis, the last one short."""
    starts = np.arange(0, x.shape[-1], group)
    return np.minimum.reduceat(x, starts, axis=-1), np.maximum.reduceat(x, starts, axis=-1)


def planes_of(scheme, mode, codes, scale, zero):
    planes = {"codes": pack_codes(scheme, codes), "scale": scale}
    if mode == "asymmetric" or not AFFINE[scheme][3]:
        planes["zero_point"] = np.asarray(zero).astype(AFFINE[scheme][0])
    return planes


def near_ties(scale, low, high, rng):
    """Values at (k + 1/2) * scale and up to two steps of f32 beside it."""
    k = rng.integers(low, high, 200).astype(np.float64)
    x = ((k + 0.5) * float(np.float32(scale))).astype(np.float32)
    for _ in range(2):
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, -np.float32(np.inf))])
    return np.unique(x)


def add_given(file, scheme, rng):
    """Scale and zero point given outright: ties, values beside ties, extremes."""
    _, _, bits, signed = AFFINE[scheme]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    extremes = np.array(
        [0.0, -0.0, 3e38, -3e38, FLT_MAX, -FLT_MAX, 1e-45, -1e-45, 1e-40, -1e-40, FLT_MIN,
         -FLT_MIN, 1e9, -1e9, 2147483648.0, -2147483648.0, 4294967296.0, 1.0, -1.0], np.float32)
    middle = (low + high) // 2
    for scale, zero in [(0.5, 0), (0.02, middle + 1), (0.00214854861, middle - 3), (1.25, high - 1),
                        (3e-38, low), (1e37, middle + 5)]:
        scale = float(np.float32(scale))
        with np.errstate(over="ignore"):
            ties = near_ties(scale, low - 20, high + 20, rng).astype(np.float64) - scale * zero
            ties = ties.astype(np.float32)
        ties = ties[np.isfinite(ties)]
        if scale == 0.5:
            ties = np.concatenate([np.arange(low - 4, high + 4, max(1, 2**bits // 2048)) * 0.25, ties])
        x = np.concatenate([extremes, ties]).astype(np.float32)
        x = x[: x.size - 1 + x.size % 2]  # odd, for the last nibble
        codes, decoded = run_onnx(scheme, x, scale, zero)
        spec = f"{scheme}:scale={scale!r},zero={zero}"
        planes = {"codes": pack_codes(scheme, codes), "scale": np.float32(scale)}
        if zero != 0:  # the plane is left out where it says nothing
            planes["zero_point"] = np.asarray(zero).astype(AFFINE[scheme][0])
        file.add(f"given_{scale:.3g}_{zero}", spec, x.shape, x, planes=planes, decoded=decoded)


def add_derived(file, scheme, rng):
    """Parameters from the values: per tensor, per axis, in groups with a short last one."""
    x = (rng.standard_normal((4, 6, 45)) * np.exp(rng.uniform(-6, 6, (4, 6, 1)))).astype(np.float32)
    x[0, 1] = 0  # all-zero rows
    x[1, 2, :32] = 0
    x[1, 3] *= np.float32(1e38 / np.abs(x[1, 3]).max())
    x[2, 0] = np.abs(x[2, 0]) + 1  # the range has to be widened to 0, from both sides
    x[2, 1] = -np.abs(x[2, 1]) - 1
    x[2, 2] = np.float32(1e-41) * rng.integers(-9, 10, 45)  # subnormal: the scale is held at FLT_MIN
    x[3, 0] = np.arange(45) - 22  # ties in a full range
    x[3, 0, 0], x[3, 0, 44] = -FLT_MAX / 2, FLT_MAX / 2
    plain = x[[0, 3]][:, 2:5].copy()  # without the extreme rows
    wide = file.share("inputs/wide", x)
    tame = file.share("inputs/plain", plain)
    modes = ["symmetric", "full", "asymmetric"]
    for mode in modes:
        for key, values in [(wide, x), (tame, plain)]:
            label = key.split("/")[1]
            scale, zero = derive(scheme, mode, values.min(keepdims=True), values.max(keepdims=True))
            codes, decoded = run_onnx(scheme, values, scale.reshape(()), zero.reshape(()))
            file.add(f"{mode}_tensor_{label}", f"{scheme}:per=tensor,mode={mode}", values.shape,
                     shared=key, planes=planes_of(scheme, mode, codes, scale.ravel(), zero.ravel()),
                     decoded=decoded)
            for axis in range(3):
                others = tuple(i for i in range(3) if i != axis)
                scale, zero = derive(scheme, mode, values.min(others), values.max(others))
                codes, decoded = run_onnx(scheme, values, scale, zero, axis=axis)
                file.add(f"{mode}_axis{axis}_{label}", f"{scheme}:axis={axis},mode={mode}",
                         values.shape, shared=key, planes=planes_of(scheme, mode, codes, scale, zero),
                         decoded=decoded)
            for group in (15, 16, 45):
                scale, zero = derive(scheme, mode, *block_ranges(values, group))
                codes, decoded = run_onnx(scheme, values, scale, zero, axis=2, block_size=group)
                file.add(f"{mode}_group{group}_{label}",
                         f"{scheme}:group={group},mode={mode},tail=short", values.shape, shared=key,
                         planes=planes_of(scheme, mode, codes, scale, zero), decoded=decoded)


def make_affine():
    for scheme in AFFINE:
        rng = np.random.default_rng(20240501)
        file = GoldenFile(scheme, "QuantizeLinear and DequantizeLinear of " +
                          versions("onnxruntime", "onnx") +
                          "; scales and zero points by the rule in make_golden.py, derive()")
        add_given(file, scheme, rng)
        add_derived(file, scheme, rng)
        file.write()


# --- 16-bit floats: numpy and ml_dtypes -----------------------------------------------------------


def sweep_f32(dropped_bits, low_exponents, rng):
    """f32 bit patterns: every exponent, mantissas on and beside every kind of rounding boundary."""
    kept_bits = 23 - dropped_bits
    full = 2**kept_bits - 1
    kept = np.unique([0, 1, 2, full // 3, full - full // 3, full - 1, full])
    half = 2 ** (dropped_bits - 1)
    dropped = np.array([0, 1, half - 1, half, half + 1, 2 * half - 1])
    mantissas = (kept[:, None] << dropped_bits | dropped[None, :]).ravel()
    bits = (np.arange(256)[:, None] << 23 | mantissas[None, :]).ravel()
    # Where the result is subnormal, more bits are dropped.
    extra = []
    for exponent in low_exponents:
        for shift in range(24):
            for step in (-1, 0, 1):
                for odd in (0, 1, 3):
                    mantissa = (odd << shift) + step & 0x7FFFFF
                    extra.append(exponent << 23 | mantissa)
    bits = np.concatenate([bits, extra, rng.integers(0, 2**31, 2000)])
    bits = np.unique(bits).astype(np.uint32)
    return np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)


def boundaries_f64(codes_to_f32, count, rng):
    """f64 on and just beside the middle between two codes: 29 bits below what f32 can see."""
    codes = np.sort(np.unique(np.concatenate([rng.integers(0, count, 600), np.arange(20),
                                              np.arange(count - 20, count)])))
    low = codes_to_f32[codes].astype(np.float64)
    high = codes_to_f32[codes + 1].astype(np.float64)
    middle = (low + high) / 2
    x = np.concatenate([low, middle, np.nextafter(middle, np.inf), np.nextafter(middle, 0),
                        middle * (1 + 2.0**-40), middle * (1 - 2.0**-40)])
    x = x[np.isfinite(x)]
    special = np.array([0.0, 5e-324, 1e-300, 1e300, np.inf, np.nan, 65519.999999999, 65520.0,
                        3.4e38, 3.3961775292304957e38, 3.39e38, 1e39])
    x = np.concatenate([special, x])
    return np.concatenate([x, -x])


def round_bf16(x):
    """f64 -> bf16 in exact integers; ml_dtypes goes through f32 and so rounds twice."""
    if np.isnan(x):
        return 0xFFC0 if np.signbit(x) else 0x7FC0
    sign = 0x8000 if np.signbit(x) else 0
    if np.isinf(x):
        return sign | 0x7F80
    numerator, denominator = float(abs(x)).as_integer_ratio()
    if numerator == 0:
        return sign
    exponent = max(int(np.frexp(abs(x))[1]) - 1, -126) - 7  # of the last place
    numerator <<= max(-exponent, 0)
    denominator <<= max(exponent, 0)
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient & 1):
        quotient += 1
    # A carry moves on into the exponent, and from the largest into infinity.
    biased = exponent + 7 + 127
    return sign | min((biased - 1 << 7) + quotient, 0x7F80)


def add_float_cases(file, scheme, to_code, from_code, dropped_bits, low_exponents, exact_f64, rng):
    x = sweep_f32(dropped_bits, low_exponents, rng)
    with np.errstate(over="ignore", invalid="ignore"):
        codes = to_code(x)
    spec = f"{scheme}:nonfinite=propagate"
    file.add("sweep_f32", spec, x.shape, x, planes={"codes": codes})
    all_codes = np.arange(65536, dtype=np.uint16)
    values = from_code(all_codes)
    file.add_all_codes(spec, values)
    largest = 0x7BFF if scheme == "fp16" else 0x7F7F
    with np.errstate(over="ignore", invalid="ignore"):
        x64 = boundaries_f64(values, largest, rng)
        codes = exact_f64(x64)
    file.add("boundaries_f64", spec, x64.shape, x64, planes={"codes": codes})


def make_floats():
    rng = np.random.default_rng(20240502)
    file = GoldenFile("fp16", "astype of " + versions("numpy"))
    to_half = lambda x: x.astype(np.float16).view(np.uint16)
    add_float_cases(file, "fp16", to_half, lambda c: c.view(np.float16).astype(np.float32), 13,
                    range(101, 114), to_half, rng)
    file.write()
    file = GoldenFile("bf16", "astype of " + versions("ml_dtypes") + "; from f64, where it "
                      "rounds twice, exact integers (make_golden.py, round_bf16)")
    add_float_cases(
        file, "bf16", lambda x: x.astype(ml_dtypes.bfloat16).view(np.uint16),
        lambda c: c.view(ml_dtypes.bfloat16).astype(np.float32), 16, range(0, 2),
        lambda x: np.array([round_bf16(v) for v in x], np.uint16), rng)
    file.write()


# --- q8_0: ggml -----------------------------------------------------------------------------------


def ggml_q8_0(x):
    """Returns the bytes of ggml's quantize_row_q8_0_ref, and what ggml decodes them to."""
    import libggml

    folder = pathlib.Path(libggml.__file__).parent
    base = ctypes.CDLL(str(next(folder.rglob("libggml-base.so"))))
    x = np.ascontiguousarray(x, np.float32).ravel()
    codes = np.zeros(x.size // 32 * 34, np.uint8)
    decoded = np.zeros(x.size, np.float32)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)
    base.quantize_row_q8_0_ref(pointer(x), pointer(codes), ctypes.c_int64(x.size))
    base.dequantize_row_q8_0(pointer(codes), pointer(decoded), ctypes.c_int64(x.size))
    return codes, decoded


def make_q8_0():
    rng = np.random.default_rng(20240503)
    file = GoldenFile("q8_0", "quantize_row_q8_0_ref and dequantize_row_q8_0 of ggml (" +
                      versions("libggml-python") + ")")
    ties = np.resize(np.arange(-127, 128) * 0.5, (32, 32)).astype(np.float32)
    ties[:, 7] = 127
    cases = {
        "random": rng.standard_normal((9, 96)),
        "ties": ties,
        # d in f16: normal, subnormal, zero, close to the largest.
        "magnitudes": rng.standard_normal((40, 32)) * 10.0 ** np.linspace(-30, 6, 40)[:, None],
        "zeros": np.zeros((2, 64)),
        "signed_zeros": np.where(rng.random((2, 64)) < 0.5, -0.0, 0.0),
        "largest": np.array([65504.0 * 127, -1, 1, 3e5] * 16),
        "one_value": np.where(np.arange(64) % 32 == 5, -3.7, 0.0),
        "rank3": rng.uniform(-1, 1, (3, 2, 64)),
    }
    for name, x in cases.items():
        x = x.astype(np.float32)
        codes, decoded = ggml_q8_0(x)
        file.add(name, "q8_0", x.shape, x, planes={"codes": codes}, decoded=decoded)
    file.write()


# --- nf4: bitsandbytes ----------------------------------------------------------------------------


def make_nf4():
    import bitsandbytes.functional
    import torch

    rng = np.random.default_rng(20240504)
    # Left out, since quantd does not follow: the CPU code's 1e-38 for a scale below it, and the
    # scale 0 of an all-zero block, which is 1 here as in all schemes.
    file = GoldenFile("nf4", "quantize_4bit and dequantize_4bit on the CPU of " +
                      versions("bitsandbytes", "torch") + ", with scale 1 for all-zero blocks")
    code = bitsandbytes.functional.get_4bit_type("nf4", device="cpu").numpy()
    middles = (code[:-1] + code[1:]) / np.float32(2)
    ties = np.concatenate([middles, np.nextafter(middles, np.float32(2)),
                           np.nextafter(middles, np.float32(-2)), code, [1.0, -0.0, 0.0]])
    wide = rng.standard_normal((6, 128)) * 10.0 ** rng.uniform(-30, 30, (6, 1))
    zeros = rng.standard_normal(64 * 4)
    zeros[64:128] = 0
    cases = {
        "random": rng.standard_normal((17, 192)),
        "ties": np.resize(ties, 64 * 7) * np.repeat([1.0, 0.5, 8.0, 1.0, 2.0**-40, 2.0**60, 1.0], 64),
        "wide": wide,
        "zeros": zeros,
        "short_block": rng.standard_normal((5, 26)),
        "odd": rng.standard_normal(64 * 3 + 17),
        "one": np.array([-2.5]),
    }
    for name, x in cases.items():
        x = x.astype(np.float32)
        packed, state = bitsandbytes.functional.quantize_4bit(
            torch.from_numpy(x.reshape(-1)), blocksize=64, quant_type="nf4")
        decoded = bitsandbytes.functional.dequantize_4bit(packed, state).numpy()
        scale = state.absmax.numpy()
        file.add(name, "nf4", x.shape, x, decoded=decoded,
                 planes={"codes": packed.numpy().ravel(),
                         "scale": np.where(scale == 0, np.float32(1), scale)})
    file.write()


FAMILIES = {"affine": make_affine, "floats": make_floats, "q8_0": make_q8_0, "nf4": make_nf4}

if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        FAMILIES[family]()
