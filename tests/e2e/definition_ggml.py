"""ggml's q4_0, q4_1, q5_0, q5_1, tq1_0, tq2_0 and its dialect of mxfp4 of core/scheme/DEFINITIONS.md,
by that page alone."""

import numpy as np
import definition_k
import definition_scales
from definitions import F32_MAX, narrow, widen

f32 = np.float32
SIMPLE = {"q4_0": (4, False), "q4_1": (4, True), "q5_0": (5, False), "q5_1": (5, True)}  # bits, minimum
BLOCK_BYTES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "tq1_0": 54, "tq2_0": 66}
SCHEMES = list(BLOCK_BYTES)
# Those that take tail=pad and nonfinite=saturate: elements of a block.
BLOCKS = {"q8_0": 32, "q4_0": 32, "q4_1": 32, "q5_0": 32, "q5_1": 32, "tq1_0": 256, "tq2_0": 256}


def decode(scheme, shape, planes, u):
    blocks = planes["codes"].reshape(tuple(shape[:-1]) + (-1, BLOCK_BYTES[scheme]))
    values = globals()["decode_" + ("simple" if scheme in SIMPLE else scheme)](scheme, blocks)
    return values.astype(u).reshape(tuple(shape[:-1]) + (-1,))[..., : shape[-1]]


def encode(scheme, x, importance=None):
    """The codes plane of x in T, of which none is NaN or infinite; `importance` has a weight for each
    value, or is None."""
    x = np.clip(x, -F32_MAX, F32_MAX).astype(f32)
    size = BLOCKS[scheme]
    pad = np.zeros(x.shape[:-1] + (-x.shape[-1] % size,), f32)
    blocks = np.concatenate([x, pad], axis=-1).reshape(x.shape[:-1] + (-1, size))
    if importance is not None:
        weights = np.concatenate([importance, pad], axis=-1).astype(f32).reshape(blocks.shape)
        energy = definition_k.total(x * x) / f32(x.shape[-1] + pad.shape[-1])
        weights = weights * np.sqrt(energy[..., None, None] + blocks * blocks)
        return encode_weighted(scheme, blocks, weights).astype("u1").reshape(x.shape[:-1] + (-1,))
    made = globals()["encode_" + ("simple" if scheme in SIMPLE else scheme)](scheme, blocks)
    assert made.shape[-1] == BLOCK_BYTES[scheme]
    return made.astype("u1").reshape(x.shape[:-1] + (-1,))


def half_at(blocks, at):
    return widen(np.ascontiguousarray(blocks[..., at : at + 2]).view("<u2"), "f16", f32)


def half_bytes(values):
    return narrow(values, "f16").astype("<u2").view("u1")


def first_of(blocks, where):
    """Of each block the first value that is told."""
    return np.take_along_axis(blocks, where.argmax(axis=-1)[..., None], -1)


def nibbles(codes):
    """32 codes as 16 bytes: code j low, code j + 16 high."""
    return codes[..., :16] & 15 | (codes[..., 16:] & 15) << 4


def from_nibbles(packed):
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def held(v):
    return np.where(np.abs(v) >= 65520, np.copysign(f32(65504), v), v)


def decode_simple(scheme, blocks):
    bits, has_min = SIMPLE[scheme]
    at = 4 if has_min else 2
    codes = from_nibbles(blocks[..., -16:]).astype(np.int64)
    if bits == 5:
        codes |= np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little").astype(np.int64) << 4
    d = half_at(blocks, 0)
    if has_min:
        return codes.astype(f32) * d + half_at(blocks, 2)
    return (codes - (1 << (bits - 1))).astype(f32) * d


def encode_simple(scheme, x):
    bits, has_min = SIMPLE[scheme]
    half, top_code = 1 << (bits - 1), (1 << bits) - 1
    if has_min:
        lo, hi = (first_of(x, x == edge) for edge in (x.min(-1, keepdims=True), x.max(-1, keepdims=True)))
        lo = held(lo)
        d = held((hi - lo) / f32(top_code))
    else:
        absmax = np.abs(x).max(-1, keepdims=True)
        d = held(np.where(absmax == 0, f32(0), first_of(x, np.abs(x) == absmax)) / f32(-half))
    i = np.where(d == 0, f32(0), f32(1) / d)
    v = (x - lo) * i + f32(0.5) if has_min else x * i + f32(half + 0.5)
    codes = np.where(np.isinf(i), 0, np.floor(np.clip(v, 0, top_code))).astype(np.int64)
    parts = [half_bytes(d)] + ([half_bytes(lo)] if has_min else [])
    if bits == 5:
        parts.append(np.packbits((codes >> 4).astype("u1"), axis=-1, bitorder="little"))
    return np.concatenate([*parts, nibbles(codes)], axis=-1)


def encode_weighted(scheme, x, w):
    bits, has_min = SIMPLE[scheme]
    half, top_code = 1 << (bits - 1), (1 << bits) - 1
    rows, weights = x.reshape(-1, 32), w.reshape(-1, 32)
    if has_min:
        d, low, _, codes = definition_k.search(rows, weights, top_code, lambda e: e * e, -0.9, 0.05, 36)
        lo = -low
    else:
        d, codes = definition_scales.search(rows, half, weights)
        lo, codes = np.zeros_like(d), codes + half
    parts = [half_bytes(held(v)[:, None]) for v in ([d, lo] if has_min else [d])]
    if bits == 5:
        parts.append(np.packbits((codes >> 4).astype("u1"), axis=-1, bitorder="little"))
    made = np.concatenate([*parts, nibbles(codes)], axis=-1)
    finite = np.isfinite(d) & np.isfinite(lo)
    return np.where(finite[:, None], made, encode_simple(scheme, rows))


# --- Ternary ---

def trit_places():
    """Byte and trit, from the most significant on, of each value of tq1_0."""
    n = np.arange(256)
    byte = np.where(n < 160, n % 32, np.where(n < 240, 32 + (n - 160) % 16, 48 + (n - 240) % 4))
    return byte, np.where(n < 160, n // 32, np.where(n < 240, (n - 160) // 16, (n - 240) // 4))


def pair_places():
    """Byte and shift of each value of tq2_0."""
    n = np.arange(256)
    return n // 128 * 32 + n % 32, n % 128 // 32 * 2


def decode_tq1_0(scheme, blocks):
    byte, trit = trit_places()
    codes = (blocks[..., byte].astype(np.int64) * 3**trit % 256) * 3 // 256
    return half_at(blocks, 52) * (codes - 1).astype(f32)


def decode_tq2_0(scheme, blocks):
    byte, shift = pair_places()
    return half_at(blocks, 64) * ((blocks[..., byte] >> shift & 3).astype(np.int64) - 1).astype(f32)


def ternary_codes(x):
    """d and codes."""
    d = np.abs(x).max(-1, keepdims=True)
    d = np.where(d >= 65520, f32(65504), d)
    i = np.where(np.isinf(f32(1) / d), f32(0), f32(1) / d)
    v = x * i
    return d, np.where(v >= 0.5, 2, np.where(v <= -0.5, 0, 1))


def encode_tq1_0(scheme, x):
    d, codes = ternary_codes(x)
    byte, trit = trit_places()
    sums = np.zeros(x.shape[:-1] + (52,), np.int64)
    for n in range(256):
        sums[..., byte[n]] += codes[..., n] * 3 ** (4 - trit[n])
    return np.concatenate([-(-256 * sums // 243), half_bytes(d)], axis=-1)


def encode_tq2_0(scheme, x):
    d, codes = ternary_codes(x)
    byte, shift = pair_places()
    packed = np.zeros(x.shape[:-1] + (64,), np.int64)
    for n in range(256):
        packed[..., byte[n]] |= codes[..., n] << shift[n]
    return np.concatenate([packed, half_bytes(d)], axis=-1)


# --- Dialect ggml of mxfp4 ---

MXFP4_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12])


def decode_mxfp4(shape, planes, u):
    blocks = planes["codes"].reshape(tuple(shape[:-1]) + (-1, 17))
    codes = from_nibbles(blocks[..., 1:])
    values = np.where(codes & 8, -1, 1) * MXFP4_LEVELS[codes & 7]
    scale = np.ldexp(f32(1), blocks[..., :1].astype(np.int32) - 128)
    return (values.astype(f32) * scale).astype(u).reshape(tuple(shape[:-1]) + (-1,))[..., : shape[-1]]


def encode_mxfp4(x):
    x = np.clip(x, -F32_MAX, F32_MAX).astype(f32)
    pad = np.zeros(x.shape[:-1] + (-x.shape[-1] % 32,), f32)
    blocks = np.concatenate([x, pad], axis=-1).reshape(x.shape[:-1] + (-1, 32))
    absmax = np.abs(blocks).max(-1, keepdims=True)
    # log2 in f64 is within a unit of its last place, of 2^-46 and less: it is rounded to f32 as the exact one
    log2 = np.log2(np.where(absmax == 0, 1, absmax).astype(np.float64)).astype(f32)
    e = np.where(absmax == 0, 0, (np.floor(log2).astype(np.int64) + 125) % 256)
    scale = np.ldexp(f32(1), (e - 128).astype(np.int32))
    levels = np.concatenate([MXFP4_LEVELS, -MXFP4_LEVELS]).astype(f32)
    codes = np.abs(levels * scale[..., None] - blocks[..., None]).argmin(axis=-1)
    made = np.concatenate([e, nibbles(codes)], axis=-1)
    return made.astype("u1").reshape(x.shape[:-1] + (-1,))
