"""Makes the golden files of this folder: what other projects' code gives for stated inputs.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_golden.py affine fixed floats small_floats q8_0

nf4 is bitsandbytes', with requirements-bitsandbytes.txt.

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
import os
import pathlib
import struct
import sys

import ml_dtypes
import numpy as np

# tests/parity makes other files than those of this folder, of other values.
FOLDER = pathlib.Path(os.environ.get("QUANTD_GOLDEN_FOLDER", pathlib.Path(__file__).parent))
SEED = os.environ.get("QUANTD_GOLDEN_SEED", "")
COMMAND = "python tests/golden/make_golden.py"
FLT_MIN = float(np.finfo(np.float32).tiny)
FLT_MAX = float(np.finfo(np.float32).max)


def random_values(seed):
    """Returns a generator: the same one for the same seed, unless QUANTD_GOLDEN_SEED is another."""
    return np.random.default_rng([seed, int(SEED)] if SEED else seed)


def versions(*packages):
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def sha256_f32(values):
    return hashlib.sha256(np.asarray(values).astype("<f4").tobytes()).hexdigest()


class GoldenFile:
    """Collects cases and writes them as one safetensors file."""

    def __init__(self, name, source, command=COMMAND):
        self.path = FOLDER / f"{name}.safetensors"
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
                 "int64": "I64", "int32": "I32", "uint32": "U32", "uint16": "U16", "int16": "I16", "int8": "I8", "uint8": "U8"}
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
    "uint16": (np.uint16, "UINT16", 16, False),
    # Of these widths the codes are those of 8 bits, clipped: onnxruntime has no kernel for int2 and
    # uint2, ONNX no type for the others.
    **{f"{sign}int{bits}": (np.int8 if sign == "" else np.uint8, sign.upper() + "INT8", bits, sign == "")
       for sign in ("", "u") for bits in (2, 3, 5, 6)},
}


NARROW = [scheme for scheme, (_, _, bits, _) in AFFINE.items() if bits in (2, 3, 5, 6)]  # in one file
DIGESTS = ["uint16", *NARROW]  # schemes of whose decoded values only the hash is kept


def case_prefix(scheme):
    return f"{scheme}_" if scheme in NARROW else ""


def code_bounds(scheme):
    _, _, bits, signed = AFFINE[scheme]
    low = -(2 ** (bits - 1)) if signed else 0
    return low, low + 2**bits - 1


def bit_stream(codes, width):
    """Codes of `width` bits one after the other, the lowest bit first."""
    bits = codes.astype(np.int64).reshape(-1, 1) >> np.arange(width) & 1
    return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little")


def run_onnx(scheme, x, scale, zero, **attributes):
    """Returns onnxruntime's codes (int32) of x, and what it decodes them to."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    code_type = getattr(TensorProto, AFFINE[scheme][1])
    scale = np.asarray(scale, np.float32)
    zero = np.asarray(zero)
    clips = scheme in NARROW
    low, high = code_bounds(scheme)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["made" if clips else "q"], **attributes),
        *([helper.make_node("Clip", ["made", "low", "high"], ["q"])] if clips else []),
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
            *([helper.make_tensor("low", code_type, [], [low]),
               helper.make_tensor("high", code_type, [], [high])] if clips else []),
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
    """Returns the codes plane: of 2 and 4 bits as ONNX packs them, of 3, 5 and 6 a stream of bits."""
    code_type, _, bits, signed = AFFINE[scheme]
    if bits >= 8:
        return codes.astype(code_type)
    if bits in (2, 4):
        from onnx import numpy_helper

        packed_type = getattr(ml_dtypes, scheme)
        return np.frombuffer(numpy_helper.from_array(codes.ravel().astype(packed_type)).raw_data, np.uint8)
    return bit_stream(codes, bits)


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
        scale, zero = float(np.float32(scale)), min(max(zero, low), high - 1)
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
        file.add(f"{case_prefix(scheme)}given_{scale:.3g}_{zero}", spec, x.shape, x, planes=planes,
                 decoded=decoded, digest=scheme in DIGESTS)


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
            prefix, digest = case_prefix(scheme), scheme in DIGESTS
            file.add(f"{prefix}{mode}_tensor_{label}", f"{scheme}:per=tensor,mode={mode}",
                     values.shape, shared=key, decoded=decoded, digest=digest,
                     planes=planes_of(scheme, mode, codes, scale.ravel(), zero.ravel()))
            for axis in range(3):
                others = tuple(i for i in range(3) if i != axis)
                scale, zero = derive(scheme, mode, values.min(others), values.max(others))
                codes, decoded = run_onnx(scheme, values, scale, zero, axis=axis)
                file.add(f"{prefix}{mode}_axis{axis}_{label}", f"{scheme}:axis={axis},mode={mode}",
                         values.shape, shared=key, planes=planes_of(scheme, mode, codes, scale, zero),
                         decoded=decoded, digest=digest)
            for group in (15, 16, 45):
                scale, zero = derive(scheme, mode, *block_ranges(values, group))
                codes, decoded = run_onnx(scheme, values, scale, zero, axis=2, block_size=group)
                file.add(f"{prefix}{mode}_group{group}_{label}",
                         f"{scheme}:group={group},mode={mode},tail=short", values.shape, shared=key,
                         planes=planes_of(scheme, mode, codes, scale, zero), decoded=decoded,
                         digest=digest)


def make_affine():
    narrow = None
    for scheme in AFFINE:
        rng = random_values(20240501)
        source = ("QuantizeLinear and DequantizeLinear of " + versions("onnxruntime", "onnx") +
                  "; scales and zero points by the rule in make_golden.py, derive()")
        if scheme not in NARROW:
            file = GoldenFile(scheme, source)
        else:
            narrow = file = narrow or GoldenFile("narrow_ints", source + "; codes of int8 and uint8, "
                                                 "clipped, of 2 bits packed by onnx")
        add_given(file, scheme, rng)
        add_derived(file, scheme, rng)
        if file is not narrow:
            file.write()
    narrow.write()


# --- Fixed point: numpy -----------------------------------------------------------------------------


def fixed_codes(x, scale, zero, bits):
    """Whole numbers of f64 quotients, as exact integers from there on."""
    quotients = np.rint(x.astype(np.float64) / np.asarray(scale, np.float64))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    whole = [min(max(int(q), -(2**63)), 2**63 - 1) for q in quotients.ravel()]
    codes = [min(max(w + zero, low), high) for w in whole]
    return np.array(codes, np.int64).astype(np.int64 if bits == 64 else np.int32).reshape(x.shape)


def fixed_scale(reach, bits, kind):
    """The next power of two, or f32, not below reach / the last code."""
    last = np.nextafter(2.0**63, 0) if bits == 64 else 2.0**31 - 1
    scale = np.where(reach == 0, 1, np.clip(reach / last, FLT_MIN, FLT_MAX))
    if kind == "pow2":
        fraction, exponent = np.frexp(scale)
        return np.ldexp(1.0, np.where(fraction == 0.5, exponent - 1, exponent)).astype(np.float32)
    held = scale.astype(np.float32)
    return np.where(reach / held > last, np.nextafter(held, np.float32(np.inf)), held).astype(np.float32)


def make_fixed():
    for bits in (32, 64):
        rng = random_values(20240505)
        file = GoldenFile(f"int{bits}", "rint of f64 quotients by " + versions("numpy") +
                          ", then integers (make_golden.py, fixed_codes)")
        add = lambda name, keys, x, scale, zero=0: file.add(
            name, f"int{bits}:{keys}", x.shape, x, planes={
                "codes": fixed_codes(x, np.asarray(scale).reshape(np.shape(scale)), zero, bits),
                "scale": np.asarray(scale, np.float32).ravel()})
        ends = 2.0 ** np.array([30, 31, 32, 52, 53, 62, 63, 64])
        near = np.concatenate([ends, np.nextafter(ends, 0), np.nextafter(ends, np.inf), ends - 0.5,
                               ends + 0.5, [0, 0.5, 1.5, 2.5, 1e300, 5e-324]])
        near = np.concatenate([near, -near])
        with np.errstate(over="ignore"):
            single = near.astype(np.float32)
        single = single[np.isfinite(single)]
        for scale, zero in [(1.0, 0), (1.0, 3), (0.5, -3), (2.0**-16, 0), (2.0**20, 2**30)]:
            for x in (near, single):
                add(f"given_{scale:.3g}_{zero}_{x.dtype}", f"scale={scale!r},zero={zero}", x,
                    np.float32(scale), zero)
        x = rng.standard_normal((6, 45)) * np.exp(rng.uniform(-30, 30, (6, 1)))
        x[1] = 0
        x[2, 0] = 2.0**40
        for values in (x, x.astype(np.float32)):
            reach = np.abs(values.astype(np.float64))
            for kind in ("pow2", "f32"):
                rows = fixed_scale(reach.max(1), bits, kind)
                codes = fixed_codes(values, rows[:, None], 0, bits)
                file.add(f"rows_{kind}_{values.dtype}", f"int{bits}:axis=0,scale_type={kind}",
                         values.shape, values, planes={"codes": codes, "scale": rows})
                add(f"tensor_{kind}_{values.dtype}", f"scale_type={kind}", values,
                    fixed_scale(reach.max(), bits, kind))
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
    rng = random_values(20240502)
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


# --- Floats of 8 bits and less: ml_dtypes ---------------------------------------------------------

SMALL_FLOATS = {  # type, bits, the largest value
    "fp8_e5m2": (ml_dtypes.float8_e5m2, 8, 57344.0),
    "fp6_e2m3": (ml_dtypes.float6_e2m3fn, 6, 7.5),
    "fp6_e3m2": (ml_dtypes.float6_e3m2fn, 6, 28.0),
    "fp4_e2m1": (ml_dtypes.float4_e2m1fn, 4, 6.0),
}


def round_small(scheme, x):
    """f64 to the nearest value by comparing with all; ml_dtypes goes through f32 and rounds twice."""
    code_type, bits, largest = SMALL_FLOATS[scheme]
    levels = np.arange(2 ** (bits - 1), dtype=np.uint8).view(code_type).astype(np.float64)
    levels = levels[np.isfinite(levels) & (levels <= largest)]
    middles = (levels[1:] + levels[:-1]) / 2
    code = np.searchsorted(middles, np.abs(x), side="left")
    tie = np.append(middles, np.inf)[code] == np.abs(x)
    code = code + (tie & (code % 2 == 1)) | np.where(np.signbit(x), 1 << (bits - 1), 0)
    return code.astype(np.uint8).view(code_type)


def small_codes(scheme, x, saturate=True):
    """The codes plane: the cast, packed as ONNX's numpy_helper does it."""
    code_type, bits, largest = SMALL_FLOATS[scheme]
    if saturate:
        x = np.clip(x, -largest, largest)
    codes = round_small(scheme, x) if x.dtype == np.float64 else x.astype(code_type)
    if bits == 8:
        return codes.view(np.uint8)
    from onnx import numpy_helper

    return np.frombuffer(numpy_helper.from_array(codes.ravel()).raw_data, np.uint8)


def small_values(scheme, rng):
    """Codes, the middles between them, and what lies beside both, in f64."""
    code_type, bits, largest = SMALL_FLOATS[scheme]
    levels = np.arange(2 ** (bits - 1), dtype=np.uint8).view(code_type).astype(np.float64)
    levels = levels[np.isfinite(levels) & (levels <= largest)]
    middles = (levels[1:] + levels[:-1]) / 2
    end = levels[-1] + (levels[-1] - levels[-2]) / 2
    points = np.concatenate([levels, middles, [end, 2 * end, 1e-30, 1e30, 1e-40]])
    single = points.astype(np.float32)
    beside = [np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf))]
    x = np.concatenate([single, *beside, rng.standard_normal(300).astype(np.float32) * largest / 3])
    x64 = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf),
                          points * (1 + 2.0**-40), points * (1 - 2.0**-40)])
    both = lambda v: np.concatenate([v, -v])
    return both(x), both(x64)


def scaled_case(scheme, x, reach):
    """The cast of x / s in f32, s = reach / the largest value, broadcast over x."""
    code_type, _, largest = SMALL_FLOATS[scheme]
    s = round_scale(reach.astype(np.float64) / largest)
    v = x / s
    y = np.clip(v, -largest, largest).astype(code_type).astype(np.float32) * s
    return small_codes(scheme, v), s, y


def make_small_floats():
    file = GoldenFile("small_floats", "astype of " + versions("ml_dtypes", "onnx") + ", clipped where "
                      "the type has an infinity; from f64, where it rounds twice, the nearest value "
                      "(round_small); scales by the rule in make_golden.py, scaled_case()")
    for scheme, (code_type, bits, largest) in SMALL_FLOATS.items():
        rng = random_values(20240506)
        x, x64 = small_values(scheme, rng)
        for name, values in (("f32", x), ("f64", x64)):
            codes = small_codes(scheme, values)
            held = np.clip(values, -largest, largest)
            held = round_small(scheme, held) if name == "f64" else held.astype(code_type)
            file.add(f"{scheme}_{name}", scheme, values.shape, values, planes={"codes": codes},
                     decoded=held.astype(np.float32), digest=True)
        if bits == 8:
            with np.errstate(over="ignore", invalid="ignore"):
                stray = np.concatenate([x, np.array([np.nan, -np.nan, np.inf, -np.inf, 1e9], np.float32)])
                file.add(f"{scheme}_propagate", f"{scheme}:nonfinite=propagate", stray.shape, stray,
                         planes={"codes": small_codes(scheme, stray, saturate=False)})
        wide = (rng.standard_normal((7, 45)) * np.exp(rng.uniform(-9, 9, (7, 1)))).astype(np.float32)
        wide[2] = 0
        wide[3] *= np.float32(1e-38)
        key = file.share(f"{scheme}/wide", wide)
        magnitudes = np.abs(wide)
        groups = np.repeat(np.maximum.reduceat(magnitudes, np.arange(0, 45, 16), 1), 16, 1)[:, :45]
        for name, keys, reach, plane in [
                ("tensor", "per=tensor", magnitudes.max(keepdims=True), lambda s: s.ravel()),
                ("rows", "axis=0", magnitudes.max(1, keepdims=True), lambda s: s.ravel()),
                ("columns", "axis=1", magnitudes.max(0, keepdims=True), lambda s: s.ravel()),
                ("groups", "group=16,tail=short", groups, lambda s: s[:, ::16])]:
            codes, s, y = scaled_case(scheme, wide, reach)
            file.add(f"{scheme}_{name}", f"{scheme}:{keys}", wide.shape, shared=key,
                     planes={"codes": codes, "scale": plane(s)}, decoded=y, digest=True)
    x = np.array([0.1, 1e39, -1e39, 1e300, 3.4028235e38, 2.0**128 - 2.0**103, 1e-46, -0.0, 1 / 3, 16777217])
    x = np.concatenate([x, rng.standard_normal(100)])
    held = np.clip(x, -FLT_MAX, FLT_MAX).astype(np.float32)
    file.add("f32_f64", "f32", x.shape, x, planes={"codes": held}, decoded=held)
    with np.errstate(over="ignore"):
        file.add("f32_propagate", "f32:nonfinite=propagate", x.shape, x, planes={"codes": x.astype(np.float32)})
    file.add("f64_f64", "f64", x.shape, x, planes={"codes": x}, decoded=held)
    file.add("f64_f32", "f64", held.shape, held, planes={"codes": held.astype(np.float64)}, decoded=held)
    file.add("f32_f32", "f32", held.shape, held, planes={"codes": held}, decoded=held)
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
    rng = random_values(20240503)
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

    rng = random_values(20240504)
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


FAMILIES = {"affine": make_affine, "fixed": make_fixed, "floats": make_floats,
            "small_floats": make_small_floats, "q8_0": make_q8_0, "nf4": make_nf4}

if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        FAMILIES[family]()
