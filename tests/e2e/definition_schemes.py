"""Each scheme of core/scheme/DEFINITIONS.md, decoded and encoded by that page alone.

decode(scheme, spec, shape, planes, u) gives the values in u (f32 or f64), encode(scheme, spec, name,
x, dtype) the planes by name, of x in T.
"""

import math

import definition_ggml
import definition_iq4
import definition_k
import definition_scales
import numpy as np
from definitions import (F32_MAX, HALF, flat_groups, groups_of, narrow, noise_of, buckets_of, sketch_of, values_by_group, lanes_of, pack_bits, pack_nibbles, ranges_of, row_of, run_cuts,
                         rounded, saturated, stored_scales, unpack_bits, unpack_nibbles, widen)

f32 = np.float32
INTEGERS = {f"{'' if signed else 'u'}int{bits}": (bits, signed)
            for bits in (2, 3, 4, 5, 6, 8, 16) for signed in (True, False)}
FIXED = {"int32": 32, "int64": 64}
CASTS = {"f32": np.float32, "f64": np.float64}
FLOATS = {"fp16": "f16", "bf16": "bf16", "fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2", "fp6_e2m3": "e2m3",
          "fp6_e3m2": "e3m2", "fp4_e2m1": "e2m1"}
FLOAT_BITS = {"f16": 16, "bf16": 16, "e4m3": 8, "e5m2": 8, "e2m3": 6, "e3m2": 6, "e2m1": 4}
LARGEST = {"e4m3": 448.0, "e5m2": 57344.0, "e2m3": 7.5, "e3m2": 28.0, "e2m1": 6.0}
NF4 = np.array([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1], f32)
MLX = {f"mlx_q{bits}": bits for bits in (2, 3, 4, 5, 6, 8)}
MX = {"mxfp8_e4m3": ("e4m3", 8, 8), "mxfp8_e5m2": ("e5m2", 8, 15), "mxfp6_e2m3": ("e2m3", 6, 2),
      "mxfp6_e3m2": ("e3m2", 6, 4), "mxfp4": ("e2m1", 4, 2), "mxint8": ("int8", 8, 0)}  # bits, exponent
# ggml's formats that search for scales, and take importance.
SEARCHED = {**dict.fromkeys(definition_k.FORMATS, definition_k),
            **dict.fromkeys(definition_scales.BLOCK_BYTES, definition_scales),
            **dict.fromkeys(definition_iq4.BLOCK_BYTES, definition_iq4)}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
FP4 = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], f32)
BOOKS = {"nf4": (NF4, 7), "fp4": (np.concatenate([FP4, -FP4]) + f32(0), 0)}  # levels by code, code of 0
np.seterr(all="ignore")


def decode(scheme, spec, shape, planes, u):
    kind = {"F16": "f16", "BF16": "bf16"}.get(planes.get("scale", ("",))[0])
    planes = {name: array for name, (_, array) in planes.items()}
    planes["kind"] = kind  # of the scales
    if scheme in INTEGERS:
        return decode_integers(scheme, spec, shape, planes, u)
    if scheme in FIXED:
        scale = planes["scale"].reshape(-1)[groups_of(shape, spec)[0]].astype(np.float64)
        return ((planes["codes"].astype(np.float64) - float(int(spec.get("zero", 0)))) * scale).astype(u)
    if scheme in CASTS:
        return planes["codes"].astype(u)
    if scheme in FLOATS:
        codes, bits = planes["codes"], FLOAT_BITS[FLOATS[scheme]]
        if bits < 8:
            codes = unpack_bits(codes, int(np.prod(shape, dtype=np.int64)), bits).reshape(shape)
        values = widen(codes, FLOATS[scheme], u)
        if "scale" in planes:
            values = values * planes["scale"].reshape(-1)[groups_of(shape, spec)[0]].astype(u)
        return values
    if scheme in SEARCHED:
        return SEARCHED[scheme].decode(scheme, shape, planes, u)
    if scheme in definition_ggml.SCHEMES:
        return definition_ggml.decode(scheme, shape, planes, u)
    if scheme in BOOKS:
        return decode_bitsandbytes(spec, shape, planes, u)
    if scheme == "mxfp4" and spec["dialect"] == "ggml":
        return definition_ggml.decode_mxfp4(shape, planes, u)
    if scheme in MX:
        return decode_mx(*MX[scheme][:2], shape, planes, u)
    if scheme in MLX:
        return decode_mlx(MLX[scheme], spec, shape, planes, u)
    return globals()[f"decode_{scheme}"](spec, shape, planes, u)


def encode(scheme, spec, name, x, dtype):
    if spec.get("range") == "mse":
        spec = dict(spec, range=least_error(scheme, spec, name, x, dtype))
    is_ggml_mx = scheme == "mxfp4" and spec["dialect"] == "ggml"
    block = 32 if is_ggml_mx else definition_ggml.BLOCKS.get(scheme)
    clean = x if spec["nonfinite"] == "propagate" else saturated(x, block)
    if scheme in INTEGERS:
        return encode_integers(scheme, spec, name, x, clean)
    if scheme in FIXED:
        return encode_fixed(scheme, spec, name, x, clean)
    if scheme in CASTS:
        codes = clean.astype(CASTS[scheme])
        if spec["nonfinite"] != "propagate":
            codes = np.where(np.isinf(codes), np.copysign(np.finfo(codes.dtype).max, codes), codes)
        return {"codes": codes}
    if scheme in FLOATS:
        return encode_floats(scheme, spec, name, x, clean)
    if scheme in SEARCHED:
        return {"codes": SEARCHED[scheme].encode(scheme, x).reshape(x.shape[:-1] + (-1,))}
    if scheme in definition_ggml.SCHEMES:
        return {"codes": definition_ggml.encode(scheme, clean)}
    if scheme in BOOKS:
        return encode_bitsandbytes(*BOOKS[scheme], spec, x, clean)
    if is_ggml_mx:
        return {"codes": definition_ggml.encode_mxfp4(clean)}
    if scheme in MX:
        return encode_mx(*MX[scheme], spec, x, clean)
    if scheme in MLX:
        return encode_mlx(MLX[scheme], spec, x, clean, dtype)
    return globals()[f"encode_{scheme}"](spec, x, clean, dtype)


def decoded_again(scheme, spec, shape, planes, dtype, t):
    kinds = {"f16": "F16", "bf16": "BF16"}
    kind = kinds.get(dtype if scheme in MLX else spec.get("scale_type"))
    return decode(scheme, spec, shape, {n: (kind if n != "codes" else None, np.asarray(p)) for n, p in planes.items()}, t)


def least_error(scheme, spec, name, x, dtype):
    """Returns the ranges of groups that range=mse finds."""
    tried = dict(spec, range="minmax")
    if spec.get("round") == "stochastic":
        tried["round"] = "half_even"
    groups, plane = flat_groups(x.size, int(spec["group"])) if scheme in BOOKS else groups_of(x.shape, spec)
    count, at = int(np.prod(plane, dtype=np.int64)), groups.reshape(-1)
    low, high = ranges_of(x, groups, count, tried)
    if count == 0 or not np.any(low < high):
        return low, high
    axis = int(spec["axis"]) % x.ndim if "axis" in spec and scheme not in BOOKS else 0
    if count == 1:
        values, numbers = buckets_of(x, (low[0], high[0]))
        cuts = None
    elif np.prod(x.shape[:axis], dtype=np.int64) > 1:
        return least_errors_of_columns(scheme, tried, name, x, at, low, high, dtype)
    else:
        units = at // plane[-1] if "block" in spec else at  # that stripes do not part
        values, cuts = x, run_cuts(at, units, atom_of(scheme, spec, x.shape), row_of(x, spec))

    def errors(f):
        planes = encode(scheme, dict(tried, range=(low * f, high * f)), name, values, dtype)
        y = decoded_again(scheme, tried, values.shape, planes, dtype, x.dtype.type)
        d = np.where(np.isfinite(values), values - y, 0).astype(x.dtype).astype(np.float64).reshape(-1)
        if count == 1:
            return np.cumsum(numbers * (d * d))[-1:]
        sums = np.zeros(count)
        for begin, end in cuts:
            sums[at[begin]] += lanes_of(d[begin:end] * d[begin:end])
        return sums

    return walk_down(errors, low, high)


def least_errors_of_columns(scheme, tried, name, x, at, low, high, dtype):
    """Of groups that come again and again: each by what its values count as, as a row."""
    flat, finite = x.reshape(-1).astype(np.float64), np.isfinite(x.reshape(-1))
    points = {g: sketch_of(values, (low[g], high[g]), x.dtype)
              for g, values in values_by_group(flat[finite], at[finite], low < high)}
    row = dict(tried, axis="0")

    def errors(f):
        sums = np.zeros(len(low))
        for g, (values, numbers) in points.items():
            values = values.reshape(1, -1)
            planes = encode(scheme, dict(row, range=(low[g:g + 1] * f[g], high[g:g + 1] * f[g])), name, values, dtype)
            y = decoded_again(scheme, row, values.shape, planes, dtype, x.dtype.type)
            d = (values - y).astype(x.dtype).astype(np.float64).reshape(-1)
            sums[g] = np.cumsum(numbers * (d * d))[-1]
        return sums

    return walk_down(errors, low, high)


def walk_down(errors, low, high):
    """Returns the parts of [low, high] that range=mse finds, by errors(f) of fractions of each group."""
    count = len(low)
    least, best = errors(np.ones(count)), np.ones(count)

    def walk(fractions, falls):
        """Takes each of these while the error falls; returns which groups took the first."""
        took = None
        for f in fractions:
            error = errors(np.where(falls, f, best))
            falls = falls & (error < least)
            least[falls], best[falls] = error[falls], f[falls]
            took = falls if took is None else took
        return took

    walk([np.full(count, 2.0 ** (-i / 2)) for i in range(1, 8)], np.full(count, True))
    middle = best.copy()
    inward = walk([middle * 2.0 ** (-j / 8) for j in (1, 2, 3)], np.full(count, True))
    walk([middle * 2.0 ** (j / 8) for j in (1, 2, 3)], ~inward & (middle < 1))
    return low * best, high * best


def bits_of(scheme):
    """Of codes of fewer bits than 8 that fill bytes together; else 8."""
    if scheme in INTEGERS:
        return min(INTEGERS[scheme][0], 8)
    if scheme in FLOATS:
        return min(FLOAT_BITS[FLOATS[scheme]], 8)
    return 4 if scheme in BOOKS else {"fbgemm_rowwise4": 4, "fbgemm_rowwise2": 2}.get(scheme, 8)


def atom_of(scheme, spec, shape):
    elems = 32 if scheme in MLX else 8 // math.gcd(bits_of(scheme), 8)
    return (elems, shape[-1]) if spec.get("layout") == "words" else elems


def ranges(x, spec, groups, plane, atom=1, symmetric=None):
    axis = int(spec["axis"]) % x.ndim if "axis" in spec else None
    count = int(np.prod(plane, dtype=np.int64))
    columns = axis is not None and np.prod(x.shape[axis + 1 :], dtype=np.int64) == 1 and count > 1
    recurs = count <= 1 or axis is not None and np.prod(x.shape[:axis], dtype=np.int64) > 1
    return ranges_of(x, groups, count, spec, atom, recurs, columns, symmetric)


# --- Integers ---

def code_range(bits, signed, spec):
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    return (low + 1 if spec.get("mode") == "symmetric" else low), high, low + (1 << (bits - 1))


def scale_values(plane, kind):
    return widen(plane, kind, f32) if kind in ("f16", "bf16") else plane


def pack_words(codes, bits):
    rows = codes.reshape(-1, codes.shape[-1]) + (1 << (bits - 1))
    streams = (rows[:, :, None] >> np.arange(bits) & 1).astype(np.uint8).reshape(len(rows), -1)
    streams = np.pad(streams, [(0, 0), (0, -streams.shape[1] % 32)])
    packed = np.packbits(streams, axis=-1, bitorder="little")
    return packed.view("<i4").reshape(codes.shape[:-1] + (-1,))


def unpack_words(words, shape, bits):
    rows = np.ascontiguousarray(words).reshape(-1, words.shape[-1]).view(np.uint8)
    streams = np.unpackbits(rows, axis=-1, bitorder="little")[:, : shape[-1] * bits]
    codes = (streams.reshape(-1, bits).astype(np.int64) << np.arange(bits)).sum(-1)
    return codes - (1 << (bits - 1))


def decode_integers(scheme, spec, shape, planes, u):
    bits, signed = INTEGERS[scheme]
    n = int(np.prod(shape, dtype=np.int64))
    if spec["dialect"] == "usearch":
        return planes["codes"].astype(u) / u(127)
    if spec["dialect"] == "sentence_transformers":
        at = groups_of(shape, spec)[0]
        steps = planes["codes"].astype(np.float64) + (128 if signed else 0)
        return (steps * planes["scale"].reshape(-1)[at] + planes["start"].reshape(-1)[at]).astype(u)
    codes = planes["codes"].reshape(-1).astype(np.int64)
    if spec.get("layout") == "words":
        codes = unpack_words(planes["codes"], shape, bits)
    elif bits < 8:
        codes = unpack_bits(planes["codes"], n, bits)
        codes = np.where(signed & (codes >= 1 << (bits - 1)), codes - (1 << bits), codes)
    groups = groups_of(shape, spec)[0].reshape(-1)
    zero = 0 if signed or "scale" in spec else 1 << (bits - 1)
    if "zero_point" in planes:
        zero = planes["zero_point"].reshape(-1).astype(np.int64)[groups]
    if "multiplier" in planes:  # integers only: the product is one of 32 bits
        steps = (codes - zero) * planes["multiplier"].reshape(-1).astype(np.int64)[groups]
        assert np.abs(steps).max(initial=0) < 2**31
        shift = planes["shift"].reshape(-1).astype(np.int32)[groups]
        return np.ldexp(steps.astype(np.float64), -shift).astype(u).reshape(shape)
    scale = scale_values(planes["scale"].reshape(-1), planes["kind"])[groups]
    return ((codes - zero).astype(u) * scale.astype(u)).reshape(shape)


def integer_params(bits, spec, low, high, lo, hi, centre):
    """s as stored and as f32, and z, of ranges."""
    steps = hi - lo if spec["mode"] == "asymmetric" else None
    reach = np.maximum(np.abs(low), np.abs(high))
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if spec["dialect"] == "compressed_tensors":
        return compressed_tensors_params(spec, low, high, lo, hi)
    if steps is None:
        stored, s = stored_scales(reach / ((hi - lo) / 2), spec["scale_type"])
        return stored, s, np.full(s.shape, centre)
    stored, s = stored_scales((high - low) / steps, spec["scale_type"])
    w = high / steps - low / steps
    by = np.where(s < w / (1.5 if bits < 4 else 2), w, s.astype(np.float64))
    return stored, s, np.clip(np.rint(lo - low / by), lo, hi).astype(np.int64)


def toward_zero(value, kind):
    """A positive f64 as a scale of this type."""
    held = value.astype(f32)
    held = np.where(held > value, np.nextafter(held, f32(0)), held).astype(f32)
    kept = {"f32": 0xFFFFFFFF, "bf16": 0xFFFF0000, "pow2": 0xFF800000, "dyadic16": 0xFFFFFE00}[kind]
    return (held.view(np.uint32) & np.uint32(kept)).view(f32)


def near_the_end(spec, stored, s, z, low, high, lo, hi):
    """Scales whose outermost step count f32 does not hold."""
    far = ~np.isfinite(s * np.maximum(hi - z, z - lo).astype(f32))
    if not far.any() or spec["scale_type"] == "f16":
        return stored, s, z
    if spec["mode"] == "asymmetric":
        w = high / (hi - lo) - low / (hi - lo)
        z = np.where(far, np.clip(np.rint(lo - low / w), lo, hi).astype(np.int64), z)
    most = toward_zero(F32_MAX / np.maximum(hi - z, z - lo), spec["scale_type"])
    s = np.where(far, np.minimum(s, most), s).astype(f32)
    return (stored_scales(s, spec["scale_type"])[0] if spec["scale_type"] in ("bf16", "dyadic16") else s), s, z


def compressed_tensors_params(spec, low, high, lo, hi):
    low, high = np.clip(low, -F32_MAX, 0).astype(f32), np.clip(high, 0, F32_MAX).astype(f32)
    steps = f32(hi - lo)
    if spec["mode"] == "full":
        s = np.maximum(-low, high) / f32(steps / 2)
        z = np.zeros(s.shape, np.int64)
    else:
        width = high.astype(np.float64) - low.astype(np.float64)
        s = np.where(width > F32_MAX, (width / float(steps)).astype(f32), width.astype(f32) / steps).astype(f32)
        z = f32(lo) - low / s
        z = np.where(np.isnan(z), 0, np.rint(np.clip(z, lo, hi))).astype(np.int64)
    s = np.where(s == 0, f32(2.0**-23), s).astype(f32)
    return s, s, z


def encode_integers(scheme, spec, name, x, clean):
    bits, signed = INTEGERS[scheme]
    if spec["dialect"] == "usearch":
        return {"codes": encode_vectors(x)}
    lo, hi, centre = code_range(bits, signed, spec)
    groups, plane = groups_of(x.shape, spec)
    if spec["dialect"] == "sentence_transformers":
        return encode_columns(x, clean, groups, plane, signed, *ranges(x, spec, groups, plane))
    count = int(np.prod(plane, dtype=np.int64))
    if "scale" in spec:
        stored, s = stored_scales(np.full(count, float(spec["scale"])), spec["scale_type"])
        z = np.full(count, int(spec.get("zero", 0)))
        has_zeros = int(spec.get("zero", 0)) != 0
    else:
        low, high = ranges(x, spec, groups, plane, atom=atom_of(scheme, spec, x.shape))
        stored, s, z = integer_params(bits, spec, low, high, lo, hi, centre)
        if x.dtype == f32:
            stored, s, z = near_the_end(spec, stored, s, z, np.minimum(low, 0), np.maximum(high, 0), lo, hi)
        has_zeros = not signed or spec["mode"] == "asymmetric"
    t = x.dtype
    each_s, each_z = s[groups].astype(t), z[groups]
    if spec["dialect"] == "compressed_tensors":
        codes = np.rint(np.clip(clean / each_s + each_z.astype(t), t.type(lo), t.type(hi))).astype(np.int64)
    else:
        noise = None
        if spec["round"] == "stochastic":
            noise = noise_of(name, int(spec["seed"]), x.size).reshape(x.shape)
        v = np.clip(clean / each_s, (lo - each_z).astype(t), (hi - each_z).astype(t))
        codes = rounded(v, spec["round"], noise).astype(np.int64) + each_z
    kind = np.dtype(("<i" if signed else "<u") + ("2" if bits == 16 else "1"))
    packed = pack_bits(codes.reshape(-1), bits) if bits < 8 else codes.astype(kind)
    if spec.get("layout") == "words":
        packed = pack_words(codes, bits)
    planes = {"codes": packed,
              **{name: part.reshape(plane)
                 for name, part in (stored if isinstance(stored, dict) else {"scale": stored}).items()}}
    if has_zeros:
        planes["zero_point"] = z.astype(kind).reshape(plane)
    return planes


def encode_columns(x, clean, groups, plane, signed, low, high):
    low, high = (np.clip(end, -F32_MAX, F32_MAX).astype(f32) for end in (low, high))
    scale = (high - low) / f32(255)
    scale = np.where(np.isinf(scale), ((high.astype(np.float64) - low) / 255).astype(f32), scale)
    scale = np.where(scale == 0, f32(1), scale).astype(f32)
    t = x.dtype
    half = np.where(scale >= f32(2.0**119), 0.5, 1)[groups].astype(t)
    v = (clean * half - low[groups].astype(t) * half) / (scale[groups].astype(t) * half)
    codes = np.floor(np.clip(v, 0, 255)).astype(np.int64) - (128 if signed else 0)
    return {"codes": codes.astype("i1" if signed else "u1"), "scale": scale.reshape(plane), "start": low.reshape(plane)}


def encode_vectors(x):
    if x.size == 0:
        return np.zeros(x.shape, "i1")
    wide = saturated(x, x.shape[-1]).astype(np.float64)
    total = np.zeros(x.shape[:-1])
    for j in range(x.shape[-1]):
        total = total + wide[..., j] * wide[..., j]
    norm = np.sqrt(total)[..., None]
    steps = np.trunc(np.clip(wide * 127 / norm, -127, 127))
    return np.where((norm > 0) & np.isfinite(norm), steps, 0).astype("i1")


# --- Fixed point ---

def encode_fixed(scheme, spec, name, x, clean):
    bits = FIXED[scheme]
    groups, plane = groups_of(x.shape, spec)
    count = int(np.prod(plane, dtype=np.int64))
    last = float(np.nextafter(2.0**63, 0)) if bits == 64 else float(2**31 - 1)
    if "scale" in spec:
        s = stored_scales(np.full(count, float(spec["scale"])), spec["scale_type"])[1]
    else:
        low, high = ranges(x, spec, groups, plane)
        reach = np.maximum(np.abs(low), np.abs(high))
        s = stored_scales(reach / last, spec["scale_type"])[1]
        if spec["scale_type"] == "f32":
            s = np.where((reach / s > last) & (s < F32_MAX), np.nextafter(s, f32(np.inf)), s).astype(f32)
    noise = noise_of(name, int(spec["seed"]), x.size).reshape(x.shape) if spec["round"] == "stochastic" else None
    v = rounded(clean.astype(np.float64) / s[groups].astype(np.float64), spec["round"], noise)
    zero, lo, hi = int(spec.get("zero", 0)), -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    v = np.clip(v.reshape(-1), -(2.0**63), 2.0**63).tolist()
    whole = [min(int(w), 2**63 - 1) for w in v]
    codes = np.array([min(max(w + zero, lo), hi) for w in whole], f"<i{bits // 8}").reshape(x.shape)
    return {"codes": codes, "scale": s.reshape(plane)}


# --- Floats ---

def encode_floats(scheme, spec, name, x, clean):
    kind = FLOATS[scheme]
    bits = FLOAT_BITS[kind]
    noise = None
    if spec["round"] == "stochastic":
        noise = noise_of(name, int(spec["seed"]), x.size).reshape(x.shape)
    planes = {}
    if any(key in spec for key in ("per", "axis", "group", "block")):
        groups, plane = groups_of(x.shape, spec)
        low, high = ranges(x, spec, groups, plane, atom=8 // math.gcd(bits, 8))
        reach, largest = np.maximum(np.abs(low), np.abs(high)), LARGEST[kind]
        s = np.minimum(reach / largest, F32_MAX).astype(f32)
        if spec["dialect"] == "compressed_tensors":
            s = np.where(s == 0, f32(2.0**-23), s).astype(f32)
        elif spec["dialect"] == "modelopt":
            s = np.where(s == 0, f32(1), s).astype(f32)
        else:
            s = np.where(reach == 0, f32(1), np.maximum(s, f32(2.0**-126))).astype(f32)
        if x.dtype == f32:
            most = toward_zero(np.array(F32_MAX / largest), "f32")
            s = np.where(np.isinf(s * f32(largest)), most, s).astype(f32)
        planes["scale"] = s.reshape(plane)
        clean = clean / s[groups].astype(x.dtype)
    codes = narrow(clean, kind, spec["round"], spec["nonfinite"] == "propagate", noise)
    codes = pack_bits(codes.reshape(-1), bits) if bits < 8 else codes.astype(f"<u{bits // 8}")
    return {"codes": codes, **planes}


# --- Blocks and rows ---

def blocks_of(x, size):
    """The rows, filled up with zeros, as blocks: [.., blocks, size]."""
    pad = -x.shape[-1] % size
    filled = np.concatenate([x, np.zeros(x.shape[:-1] + (pad,), x.dtype)], axis=-1)
    return filled.reshape(x.shape[:-1] + (-1, size))


def cut_rows(blocks, shape):
    return blocks.reshape(tuple(shape[:-1]) + (-1,))[..., : shape[-1]]


def decode_q8_0(spec, shape, planes, u):
    blocks = planes["codes"].reshape(tuple(shape[:-1]) + (-1, 34))
    d = widen(np.ascontiguousarray(blocks[..., :2]).view("<u2"), "f16", u)
    return cut_rows(np.ascontiguousarray(blocks[..., 2:]).view("i1").astype(u) * d, shape)


def encode_q8_0(spec, x, clean, dtype):
    t, blocks = x.dtype, blocks_of(clean, 32)
    d = np.abs(blocks).max(axis=-1, keepdims=True) / t.type(127)
    d = np.where(d >= 65520, t.type(65504), d)
    i = t.type(1) / d
    bad = ~np.isfinite(i)
    d, i = np.where(bad, t.type(0), d), np.where(bad, t.type(0), i)
    codes = rounded(np.clip(blocks * i, t.type(-127), t.type(127)), "half_away").astype("i1")
    both = np.concatenate([narrow(d, "f16").astype("<u2").view("u1"), codes.view("u1")], axis=-1)
    return {"codes": both.reshape(x.shape[:-1] + (-1,))}


def fused(code, scale, bias, u):
    """fma(code, scale, bias) of u; code is exact in it and has 8 bits."""
    product, bias = code.astype(np.float64) * scale.astype(np.float64), bias.astype(np.float64)
    total = product + bias
    if u == np.float64:
        return total
    # To f32 by way of a sum that is rounded to odd, so that nothing is rounded twice.
    virtual = total - product
    error = (product - (total - virtual)) + (bias - virtual)
    bits = np.ascontiguousarray(total).view(np.int64)
    toward_zero = (error != 0) & ((error > 0) != (total > 0))
    bits = np.where(toward_zero, bits - 1, bits) | (error != 0)
    return bits.view(np.float64).astype(f32)


def decode_fbgemm_rowwise8(spec, shape, planes, u):
    rows = planes["codes"].reshape(tuple(shape[:-1]) + (-1,))
    params = np.ascontiguousarray(rows[..., shape[-1] :]).view("<f4")
    return fused(rows[..., : shape[-1]], params[..., :1], params[..., 1:], u)


def encode_fbgemm_rowwise8(spec, x, clean, dtype):
    t, count = x.dtype, x.size // x.shape[-1]
    low, high = ranges_of(x, np.arange(x.size) // x.shape[-1], count, spec, 1, count <= 1, symmetric=False)
    low, high = (np.clip(v, -F32_MAX, F32_MAX).astype(f32) for v in (low, high))
    span = np.minimum(high - low, f32(F32_MAX))
    scale, inverse = span / f32(255), f32(255) / (span + f32(1e-8))
    beyond = ~np.isfinite(fused(np.full(scale.shape, 255), scale, low, f32))
    scale = np.where(beyond, np.nextafter(scale, f32(0)), scale)
    rows = clean.reshape(count, -1)
    steps = (rows - low[:, None].astype(t)) * inverse[:, None].astype(t)
    codes = np.rint(np.clip(steps, t.type(0), t.type(255))).astype("u1")
    tail = np.stack([scale, low], axis=1).astype("<f4").view("u1")
    return {"codes": np.concatenate([codes, tail], axis=1).reshape(x.shape[:-1] + (-1,))}


def decode_narrow_rows(bits, shape, planes, u):
    rows = planes["codes"].reshape(tuple(shape[:-1]) + (-1,))
    params = widen(np.ascontiguousarray(rows[..., -4:]).view("<u2"), "f16", f32)
    codes = [unpack_bits(row[:-4], shape[-1], bits) for row in rows.reshape(-1, rows.shape[-1])]
    return fused(np.array(codes).reshape(shape), params[..., :1], params[..., 1:], u)


def encode_narrow_rows(bits, spec, x):
    t, count, last = x.dtype, x.size // x.shape[-1], (1 << bits) - 1
    low, high = ranges_of(x, np.arange(x.size) // x.shape[-1], count, spec, 8 // bits, count <= 1,
                          symmetric=False)
    low, high = (np.clip(v, -F32_MAX, F32_MAX).astype(f32) for v in (low, high))
    half = lambda v: widen(narrow(v, "f16"), "f16", f32)
    bias = half(low)
    scale = half((high - bias) / f32(last))
    scale = np.where(scale == 0, f32(1), scale).astype(f32)
    steps = (x.reshape(count, -1) - bias[:, None].astype(t)) * (f32(1) / scale)[:, None].astype(t)
    codes = np.rint(np.clip(steps, t.type(0), t.type(last))).astype(np.int64)
    packed = np.stack([pack_bits(row, bits) for row in codes])
    tail = narrow(np.stack([scale, bias], axis=1), "f16").astype("<u2").view("u1")
    return {"codes": np.concatenate([packed, tail], axis=1).reshape(x.shape[:-1] + (-1,))}


def decode_fbgemm_rowwise4(spec, shape, planes, u):
    return decode_narrow_rows(4, shape, planes, u)


def encode_fbgemm_rowwise4(spec, x, clean, dtype):
    return encode_narrow_rows(4, spec, clean)


def decode_fbgemm_rowwise2(spec, shape, planes, u):
    return decode_narrow_rows(2, shape, planes, u)


def encode_fbgemm_rowwise2(spec, x, clean, dtype):
    return encode_narrow_rows(2, spec, clean)


def whole_stream(packed, width):
    """The codes of whole bytes of a stream."""
    packed = packed.reshape(-1).view("u1")
    return unpack_bits(packed, packed.size * 8 // width, width)


def decode_mx(kind, width, shape, planes, u):
    codes = whole_stream(planes["codes"], width).reshape(tuple(shape[:-1]) + (-1, 32))
    if kind == "int8":
        values = np.where(codes < 128, codes, codes - 256).astype(u) / u(64)
    else:
        values = widen(codes, kind, u)
    e = planes["scale"].astype(np.int32)[..., None]
    return cut_rows(np.where(e == 255, u(np.nan), np.ldexp(u(1), e - 127) * values), shape)


def encode_mx(kind, width, exponent, spec, x, clean):
    t, known = x.dtype, np.where(np.isfinite(x), x, 0).astype(np.float64)
    absmax = np.minimum(np.abs(blocks_of(known, 32)).max(axis=-1), F32_MAX)
    if spec["dialect"] == "mlx":
        return encode_mx_as_mlx(kind, width, absmax, x, clean)
    e = np.where(absmax == 0, 0, np.clip(np.frexp(absmax)[1] - 1 - exponent + 127, 0, 254 - exponent))
    q = blocks_of(clean, 32) / np.ldexp(t.type(1), (e - 127).astype(np.int32))[..., None]
    if kind == "int8":
        codes = np.rint(np.clip(q * 64, -127, 127)).astype(np.int64) & 255
    else:
        codes = narrow(q, kind)
    return {"codes": pack_bits(codes, width).reshape(x.shape[:-1] + (-1,)), "scale": e.astype("u1")}


def encode_mx_as_mlx(kind, width, absmax, x, clean):
    t, values = x.dtype, widen(np.arange(HALF[kind][3] + 1), kind, np.float64)
    s = (absmax.astype(f32) / f32(values[-1])).astype(np.float64)
    fraction, power = np.frexp(s)
    e = np.where(s == 0, 127, np.maximum(power - (fraction == 0.5) + 127, 0))
    scale = np.ldexp(1.0, (e - 127).astype(np.int32))[..., None]
    q = blocks_of(clean, 32) / scale.astype(t)
    if kind == "e2m1":
        code = below(np.abs(q).astype(np.float64), (values[1:] + values[:-1]) / 2)
        sign = (np.signbit(q) & (code > 0)) << 3
    else:
        both = narrow(q, kind)
        code, sign = both & 127, both & 128
    held = np.isfinite((values * scale).astype(f32)).sum(axis=-1, keepdims=True) - 1
    code = np.minimum(code, held)
    packed = pack_bits(code | sign, width)
    return {"codes": packed.reshape(x.shape[:-1] + (-1,)), "scale": e.astype("u1")}


def decode_mlx(width, spec, shape, planes, u):
    codes = whole_stream(planes["codes"], width)
    groups = np.arange(len(codes)) // int(spec["group"])
    kind = planes["kind"]
    scale, bias = (scale_values(planes[p].reshape(-1), kind)[groups].astype(u) for p in ("scale", "bias"))
    return (codes.astype(u) * scale + bias).reshape(shape)


def encode_mlx(width, spec, x, clean, dtype):
    t, size = x.dtype, int(spec["group"])
    groups, plane = groups_of(x.shape, spec)
    most = f32(2**width - 1)
    low, high = ranges(x, spec, groups, plane, atom=32, symmetric=False)
    low, high = (np.clip(v, -F32_MAX, F32_MAX).astype(f32) for v in (low, high))
    step = np.maximum(np.minimum(high - low, f32(F32_MAX)) / most, f32(1e-7))
    negative = np.abs(low) > np.abs(high)
    scale, edge = np.where(negative, step, -step), np.where(negative, low, high)
    e = np.rint(edge / scale)
    scale, bias = np.where(e != 0, edge / e, scale).astype(f32), np.where(e != 0, edge, f32(0)).astype(f32)
    if t == f32:
        largest = toward_zero(np.array(F32_MAX / float(most)), "f32")
        scale = np.where(np.isinf(scale * most), np.copysign(largest, scale), scale).astype(f32)
    v = (clean - bias[groups].astype(t)) / scale[groups].astype(t)
    codes = np.rint(np.clip(v, t.type(0), t.type(most))).astype(np.int64).reshape(-1)
    words = pack_bits(codes, width).view("<u4")
    planes = {"codes": words.reshape(x.shape[:-1] + (-1,)), "scale": scale, "bias": bias}
    for p in ("scale", "bias"):
        held = planes[p]
        if dtype in ("f16", "bf16"):
            held = narrow(held, dtype).astype("<u2")
            held = held - (np.isinf(widen(held, dtype, f32) * most) if p == "scale" else 0)
            held = held.astype("<u2")
        planes[p] = held.reshape(plane)
    return planes


def decode_nvfp4(spec, shape, planes, u):
    d = widen(planes["scale"], "e4m3", f32)
    if spec["dialect"] == "modelopt":
        d = d * planes["global_scale"].astype(f32)
    elif spec["dialect"] != "mlx":
        d = d / planes["global_scale"].astype(f32)
    codes = unpack_nibbles(planes["codes"], 2 * planes["codes"].size).reshape(tuple(shape[:-1]) + (-1, 16))
    values = np.where(codes & 8, -1.0, 1.0) * E2M1[codes & 7]
    y = values.astype(u) * d[..., None].astype(u)
    if u == f32:
        y = np.where(np.isinf(y), np.copysign(f32(F32_MAX), y), y)
    return cut_rows(y, shape)


def encode_nvfp4(spec, x, clean, dtype):
    t, known = x.dtype, np.where(np.isfinite(x), x, 0)
    blocks = blocks_of(np.minimum(np.abs(known.astype(np.float64)), F32_MAX).astype(f32), 16)
    absmax = blocks.max(axis=-1)
    if spec["dialect"] == "mlx":
        return encode_nvfp4_as_mlx(absmax, x, clean)
    if modelopt := spec["dialect"] == "modelopt":
        g = absmax.max() / f32(2688)
        g = f32(1) if g == 0 else g
        ratio = absmax / (f32(6) * g)
        ratio = np.where(ratio == 0, f32(1), np.clip(ratio, f32(2.0**-9), f32(448))).astype(f32)
        s = narrow(ratio, "e4m3").astype("u1")
        d = widen(s, "e4m3", f32) * g
    else:
        g = (f32(1) / np.maximum(absmax.max(), f32(2.0**-126))) * f32(2688)
        g = f32(1) if np.isinf(g) else g
        s = narrow(np.minimum(g * (absmax / f32(6)), f32(448)), "e4m3").astype("u1")
        s = np.where(s == 0, 0x20, s).astype("u1")
        d = widen(s, "e4m3", f32) / g
    q = np.where(d[..., None] == 0, t.type(0), blocks_of(clean, 16) / d[..., None].astype(t))
    distance = np.abs(np.minimum(np.abs(q), 6)[..., None].astype(np.float64) - E2M1)
    code = distance.argmin(axis=-1)
    following = np.minimum(code + 1, 7)
    at, after = (np.take_along_axis(distance, k[..., None], -1)[..., 0] for k in (code, following))
    code = np.where((at == after) & (code % 2 == 1), following, code) | np.where(q < 0, 8, 0)
    return {"codes": pack_nibbles(code.reshape(-1)).reshape(x.shape[:-1] + (-1,)), "scale": s,
            "global_scale": np.array(g if modelopt else [g], f32)}


def encode_nvfp4_as_mlx(absmax, x, clean):
    t = x.dtype
    s = narrow(np.minimum(absmax / f32(6), f32(448)), "e4m3").astype("u1")
    d = widen(s, "e4m3", f32)[..., None].astype(t)
    q = np.where(d == 0, t.type(0), blocks_of(clean, 16) / d)
    code = below(np.abs(q).astype(np.float64), (E2M1[1:] + E2M1[:-1]) / 2)
    code = code | np.where((q < 0) & (code > 0), 8, 0)
    return {"codes": pack_nibbles(code.reshape(-1)).reshape(x.shape[:-1] + (-1,)), "scale": s}


# --- Codebooks ---

def decode_bitsandbytes(spec, shape, planes, u):
    n = int(np.prod(shape, dtype=np.int64))
    s = planes["scale"].reshape(-1)
    if spec["scale_type"] == "nested8":
        nested = np.repeat(planes["nested_scale"], 256)[: len(s)]
        s = planes["nested_codebook"][s] * nested + planes["nested_offset"][0]
    codes = unpack_nibbles(planes["codes"], n, high_first=True)
    groups = np.arange(n) // int(spec["group"])
    return (planes["codebook"][codes].astype(u) * s[groups].astype(u)).reshape(shape)


def below(values, middles):
    """How many of the ascending middles lie below each value."""
    return np.searchsorted(middles, values, side="left")


def encode_bitsandbytes(book, zero, spec, x, clean):
    t = x.dtype
    groups, plane = flat_groups(x.size, int(spec["group"]))
    count = plane[0]
    low, high = ranges_of(x, groups, count, spec, 2, count <= 1)
    absmax = np.minimum(np.maximum(np.abs(low), np.abs(high)), F32_MAX).astype(f32)
    s = np.where(absmax == 0, f32(1), np.maximum(absmax, f32(2.0**-128 + 2.0**-149)))
    v = clean.reshape(-1) * (t.type(1) / s.astype(t))[groups]
    ascending = np.argsort(book, kind="stable")
    wide = book[ascending].astype(np.float64)
    codes = ascending[below(v, ((wide[:-1] + wide[1:]) / 2).astype(f32).astype(t))]
    planes = {"codes": pack_nibbles(codes, high_first=True, beside=zero), "scale": s, "codebook": book}
    if spec["scale_type"] == "nested8":
        planes.update(nested_scales(absmax))
    return planes


def nested_levels():
    levels = [f32(0), f32(1)]
    tenth = f32(0.1)
    for i in range(7):
        h = (f32(1) - tenth) / f32(2**i)
        k = np.arange(2**i + 1, dtype=np.float64)
        first = (h.astype(np.float64) * k + np.float64(tenth)).astype(f32)
        last = (1 - h.astype(np.float64) * (2**i - k)).astype(f32)
        e = np.where(k < (2**i + 1) // 2, first, last)
        m = f32(10.0 ** (i - 6)) * ((e[:-1] + e[1:]) / f32(2))
        levels += [*m, *-m]
    return np.sort(np.array(levels, f32))


def nested_scales(absmax):
    levels = nested_levels()
    total = 0.0
    for value in absmax.astype(np.float64):
        total += value
    offset = f32(total / max(len(absmax), 1))
    codes, scales = np.zeros(len(absmax), np.uint8), []
    for begin in range(0, len(absmax), 256):
        rest = absmax[begin : begin + 256] - offset
        nested = np.abs(rest).max()
        inverse = f32(1) / nested
        if not np.isfinite(inverse):
            scales.append(f32(0))
            continue
        scales.append(nested)
        t = np.clip(rest * inverse, f32(-1), f32(1))
        place = np.floor((t + f32(1)) * f32(0.5) * f32(65535) + f32(0.5))
        place = f32(-1) + (f32(2) * place) / f32(65535)
        nearest = below(place, f32(0.5) * (levels[:-1] + levels[1:]))
        while (far := np.isinf(levels[nearest] * nested + offset) & (nearest > 0)).any():
            nearest = nearest - far
        codes[begin : begin + 256] = nearest
    return {"scale": codes, "nested_scale": np.array(scales, f32), "nested_codebook": levels,
            "nested_offset": np.array([offset], f32)}


# --- Signs ---

def decode_bits(spec, shape, planes, u):
    codes = planes["codes"].reshape(tuple(shape[:-1]) + (-1,)).astype(np.int64)
    if spec["dialect"] == "sentence_transformers":
        codes = codes + 128
    element = np.arange(shape[-1])
    return (2 * (codes[..., element // 8] >> (7 - element % 8) & 1) - 1).astype(u)


def encode_bits(spec, x, clean, dtype):
    padded = np.zeros(x.shape[:-1] + (-(-x.shape[-1] // 8) * 8,), np.int64)
    padded[..., : x.shape[-1]] = clean > 0
    codes = padded.reshape(x.shape[:-1] + (-1, 8)) @ (128 >> np.arange(8))
    return {"codes": (codes - 128).astype("i1") if spec["dialect"] == "sentence_transformers" else codes.astype("u1")}


def decode_binary(spec, shape, planes, u):
    codes = unpack_bits(planes["codes"], int(np.prod(shape, dtype=np.int64)), 1).reshape(shape)
    s = planes["scale"].reshape(-1)[groups_of(shape, spec)[0]].astype(u)
    return np.where(codes == 1, s, -s)


def encode_binary(spec, x, clean, dtype):
    groups, plane = groups_of(x.shape, spec)
    low, high = ranges(x, spec, groups, plane, atom=8)
    s = np.minimum(np.maximum(np.abs(low), np.abs(high)), F32_MAX).astype(f32)
    return {"codes": pack_bits((clean >= 0).reshape(-1), 1), "scale": s.reshape(plane)}


def decode_pow2(spec, shape, planes, u):
    codes = unpack_nibbles(planes["codes"], int(np.prod(shape, dtype=np.int64))).reshape(shape)
    scale = planes["scale"].reshape(-1)[groups_of(shape, spec)[0]].astype(u)
    e = codes & 7
    values = np.where(e > 0, np.ldexp(scale, (e - 7).astype(np.int32)), u(0))
    return np.where((codes > 8), -values, values).astype(u)


def encode_pow2(spec, x, clean, dtype):
    groups, plane = groups_of(x.shape, spec)
    low, high = ranges(x, spec, groups, plane, atom=2)
    fraction, power = np.frexp(np.minimum(np.maximum(np.abs(low), np.abs(high)), F32_MAX))
    power = np.clip(np.where(fraction < 0.75, power - 1, power), -126, 127)
    scale = np.where(fraction == 0, 1, np.ldexp(1.0, power)).astype(f32)
    v = np.abs(clean) / scale[groups].astype(x.dtype)
    e = (v >= x.dtype.type(2.0**-7)).astype(np.int64)
    for k in range(5, -1, -1):
        e += v >= x.dtype.type(0.75 * 2.0**-k)
    codes = e + np.where((clean < 0) & (e > 0), 8, 0)
    return {"codes": pack_nibbles(codes.reshape(-1)), "scale": scale.reshape(plane)}


def decode_ternary(spec, shape, planes, u):
    codes = unpack_bits(planes["codes"], int(np.prod(shape, dtype=np.int64)), 2).reshape(shape)
    return np.array([0, 1, 0, -1], u)[codes] * planes["scale"].reshape(-1)[groups_of(shape, spec)[0]].astype(u)


def ternary_params(magnitudes, weights):
    def mean_above(bound):
        of = magnitudes > bound
        total = np.cumsum(np.append(0.0, magnitudes[of] * weights[of]))[-1]
        return float(total) / max(int(weights[of].sum()), 1)

    t = f32(0.7 * mean_above(-1))
    return t, f32(mean_above(float(t)))


def encode_ternary(spec, x, clean, dtype):
    groups, plane = groups_of(x.shape, spec)
    if "per" in spec:
        at, weights = lloyd_points(x, dtype)
        params = [ternary_params(np.abs(at), weights)]
    else:
        params = []
        for values in values_of_groups(x, groups, plane):
            magnitudes = np.minimum(np.abs(values), F32_MAX)
            params.append(ternary_params(magnitudes, np.ones(len(values), int)))
    t, s = np.array(params, f32).reshape(-1, 2).T
    bound = t[groups].astype(x.dtype)
    codes = np.where(clean > bound, 1, np.where(clean < -bound, 3, 0))
    return {"codes": pack_bits(codes.reshape(-1), 2), "scale": s.reshape(plane), "threshold": t.reshape(plane)}


def values_of_groups(x, groups, plane):
    """The finite values of each group in f64, in the order of elements."""
    flat, at = x.reshape(-1).astype(np.float64), np.broadcast_to(groups, x.shape).reshape(-1)
    for group in range(int(np.prod(plane, dtype=np.int64))):
        values = flat[at == group]
        yield values[np.isfinite(values)]


def decode_lloyd(spec, shape, planes, u):
    bits = int(spec["levels"]).bit_length() - 1
    n = int(np.prod(shape, dtype=np.int64))
    books = planes["codebook"].reshape(-1, int(spec["levels"])).astype(u)
    groups = np.broadcast_to(groups_of(shape, spec)[0], shape).reshape(-1)
    return books[groups, unpack_bits(planes["codes"], n, bits)].reshape(shape)


def lloyd_points(x, dtype):
    """Points in ascending order, and their weights."""
    flat = x[np.isfinite(x)].reshape(-1)
    flat = np.clip(flat, -F32_MAX, F32_MAX).astype(f32)
    buckets, weights = np.unique(flat.view(np.uint32) >> 16, return_counts=True)
    magnitude = buckets & 0x7FFF
    near = (magnitude << 16).astype(np.uint32).view(f32).astype(np.float64)
    far = ((magnitude + 1) << 16).astype(np.uint32).view(f32).astype(np.float64)
    far = np.where(magnitude == 0x7F7F, 2.0**128, far)
    at = near if dtype in ("bf16", "int8", "uint8") else (near + far) / 2
    at = np.where(near == 0, 0, at) * np.where(buckets & 0x8000, -1, 1)
    order = np.lexsort((buckets < 0x8000, np.where(buckets & 0x8000, -magnitude.astype(int), magnitude)))
    return at[order], weights[order]


def lloyd_sums(at, weights, cells, count):
    cells = np.asarray(cells, np.int64)  # bincount adds in order
    return np.bincount(cells, at * weights, count), np.bincount(cells, weights, count)


def lloyd_rounds(at, weights, levels):
    for _ in range(64):
        cell = below(at, (levels[:-1] + levels[1:]) / 2)
        sums, counts = lloyd_sums(at, weights, cell, len(levels))
        error = at - levels[cell]
        worst = error * error * weights
        following = np.where(counts > 0, sums / np.maximum(counts, 1), levels)
        empty = np.flatnonzero(counts == 0)
        if len(empty) and len(at) and worst.max() > 0:
            following[empty[0]] = at[worst.argmax()]
        following = np.sort(following)
        if (following == levels).all():
            break
        levels = following
    return levels


def lloyd_levels(at, weights, count):
    if count > 16:
        levels = lloyd_levels(at, weights, count // 2)
        cell = below(at, (levels[:-1] + levels[1:]) / 2)
        sums, counts = lloyd_sums(at, weights, 2 * cell + (at > levels[cell]), count)
        return lloyd_rounds(at, weights, np.where(counts > 0, sums / np.maximum(counts, 1), np.repeat(levels, 2)))
    levels = np.zeros(count)
    if len(at):
        passed = np.cumsum(weights)
        levels = at[np.searchsorted(passed, (2 * np.arange(count) + 1) / (2 * count) * passed[-1], side="left")]
    return lloyd_rounds(at, weights, levels)


def encode_lloyd(spec, x, clean, dtype):
    count = int(spec["levels"])
    groups, plane = groups_of(x.shape, spec)
    if "per" in spec:
        points = [lloyd_points(x, dtype)]
    else:
        points = [np.unique(np.clip(v, -F32_MAX, F32_MAX) + 0.0, return_counts=True)
                  for v in values_of_groups(x, groups, plane)]
    book = np.array([lloyd_levels(at, weights, count) for at, weights in points], np.float64).astype(f32)
    book = book.reshape(-1, count)
    wide, flat = book.astype(np.float64), clean.reshape(-1).astype(np.float64)
    codes = np.zeros(flat.size, np.int64)
    at = np.broadcast_to(groups, x.shape).reshape(-1)
    for group, levels in enumerate(wide):
        codes[at == group] = below(flat[at == group], (levels[:-1] + levels[1:]) / 2)
    bits = count.bit_length() - 1
    padded = np.concatenate([codes, np.zeros(-len(codes) % (8 // np.gcd(8, bits)), codes.dtype)])
    return {"codes": pack_bits(padded, bits), "codebook": book.reshape(tuple(plane) + (count,))}
