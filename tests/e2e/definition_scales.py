"""q3_k and q6_k of core/scheme/DEFINITIONS.md, by that page alone."""

import numpy as np
from definition_k import near, pack_pairs, total, unpack_pairs
from definitions import F32_MAX, narrow, widen

f32 = np.float32
BLOCK_BYTES = {"q3_k": 110, "q6_k": 210}


def decode(scheme, shape, planes, u):
    blocks = planes["codes"].reshape(-1, BLOCK_BYTES[scheme])
    d = widen(np.ascontiguousarray(blocks[:, -2:]).view("<u2"), "f16", f32)
    step = d * scales_of(scheme, blocks).astype(f32)
    levels = levels_of(scheme, blocks).reshape(-1, 16, 16)
    return (step[..., None] * levels.astype(f32)).astype(u).reshape(shape)


def scales_of(scheme, blocks):
    if scheme == "q6_k":
        return np.ascontiguousarray(blocks[:, 192:208]).view("i1")
    b, j = blocks[:, 96:108].astype(np.int64), np.arange(16)
    low = np.where(j < 8, b[:, j % 8] & 15, b[:, j % 8] >> 4)
    return (low | (b[:, 8 + j % 4] >> 2 * (j // 4) & 3) << 4) - 32


def levels_of(scheme, blocks):
    blocks = blocks.astype(np.int64)
    if scheme == "q3_k":
        high = (blocks[:, None, :32] >> np.arange(8)[:, None] & 1).reshape(-1, 256)
        return (unpack_pairs(blocks[:, 32:96]) | high << 2) - 4
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 256)
    return (low | unpack_pairs(blocks[:, 128:192]) << 4) - 32


def top_of(x):
    """The x of largest |x|, the first of those; 0 where that is below 1e-15. NaN is nothing."""
    size = np.where(np.isnan(x), -1, np.abs(x))
    top = np.take_along_axis(x, size.argmax(axis=1)[:, None], 1)[:, 0]
    return np.where(size.max(axis=1) < f32(1e-15), f32(0), top)


def search(x, most, w):
    """Scales and levels of runs."""
    top = top_of(x)
    for k in [None, *range(-9, 0), *range(1, 10)]:
        t = f32(most) if k is None else f32(most) + f32(0.1) * f32(k)
        c = np.clip(near((-t / top)[:, None] * x), -most, most - 1)
        cf = c.astype(f32)
        xl, ll = total(w * x * cf), total(w * cf * cf)
        if k is None:
            scale = np.where(ll == 0, f32(0), xl / ll)
            best, levels = scale * xl, c
            continue
        better = (ll > 0) & (xl * xl > best * ll)
        scale = np.where(better, xl / ll, scale)
        best = np.where(better, scale * xl, best)
        levels = np.where(better[:, None], c, levels)
    return np.where(top == 0, f32(0), scale), np.where((top == 0)[:, None], -most, levels)


def descend(x):
    top, w = top_of(x), x * x
    c = np.clip(near((f32(-4) / top)[:, None] * x), -4, 3)
    xl, ll = total(w * x * c.astype(f32)), total(w * c.astype(f32) * c.astype(f32))
    for _ in range(5):
        for k in range(16):
            wk, wx, old = w[:, k], w[:, k] * x[:, k], c[:, k].astype(f32)
            a, b = xl - wx * old, ll - wk * old * old
            n = np.clip(near(x[:, k] * b / a), -4, 3)
            move = (a > 0) & (n != c[:, k])
            a, b = a + wx * n.astype(f32), b + wk * n.astype(f32) * n.astype(f32)
            move &= (b > 0) & (a * a * ll > xl * xl * b)
            c[:, k] = np.where(move, n, c[:, k])
            xl, ll = np.where(move, a, xl), np.where(move, b, ll)
    scale = np.where(ll > 0, xl / ll, f32(0))
    return np.where(top == 0, f32(0), scale), np.where((top == 0)[:, None], -4, c)


def furthest(scales):
    """Of each block's 16."""
    size = np.where(np.isnan(scales), 0, np.abs(scales))
    top = np.take_along_axis(scales, size.argmax(axis=1)[:, None], 1)
    return np.where(size.max(axis=1, keepdims=True) > 0, top, f32(0))


def encode(scheme, x, importance=None):
    """`importance` has a weight for each value, or is None."""
    x = np.clip(x, -F32_MAX, F32_MAX).astype(f32).reshape(-1, 16)
    most = 32 if scheme == "q6_k" else 4
    q = None if importance is None else importance.reshape(-1, 16).astype(f32)
    if scheme == "q6_k":
        found, levels = search(x, 32, x * x if q is None else q)
    elif q is None:
        found, levels = descend(x)
    else:
        energy = np.repeat(f32(2) * total((x * x).reshape(-1, 256)) / f32(256), 16)[:, None]
        w = q * np.sqrt(energy + x * x)
        found, levels = search(x, 4, w)
    scales = found.reshape(-1, 16)
    m = furthest(scales)
    zero = np.zeros(len(m), bool)
    if scheme == "q6_k":
        zero = np.abs(m[:, 0]) < f32(1e-15)
        i = f32(-128) / m
        d, sc = f32(1) / i, np.minimum(127, near(i * scales))
    elif q is None:
        i = f32(-32) / m
        d = np.where(m == 0, f32(0), f32(1) / i)
        sc = np.where(m == 0, -32, np.clip(near(i * scales), -32, 31))
    else:
        d, sc = search(scales, 32, total(w).reshape(-1, 16))
        d = d[:, None]
    d = np.where(np.isnan(d), f32(0), d).astype(f32)
    halves = narrow(d, "f16", propagate=True).astype("<u2").view("u1").reshape(-1, 2)
    t = (widen(halves.copy().view("<u2"), "f16", f32) * sc.astype(f32)).reshape(-1, 1)
    codes = np.where(t != 0, np.clip(near(x / t), -most, most - 1), levels).reshape(-1, 256) + most
    if scheme == "q6_k":
        low = (codes & 15).reshape(-1, 2, 2, 64)
        low = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)
        made = np.concatenate([low, pack_pairs(codes >> 4), sc.astype("i1").view("u1"), halves], axis=1)
        return np.where(zero[:, None], 0, made).astype("u1")
    high = ((codes >> 2).reshape(-1, 8, 32) << np.arange(8)[:, None]).sum(axis=1)
    sc = sc + 32
    first = sc[:, :8] & 15 | (sc[:, 8:] & 15) << 4
    upper = ((sc >> 4).reshape(-1, 4, 4) << 2 * np.arange(4)[:, None]).sum(axis=1)
    return np.concatenate([high, pack_pairs(codes), first, upper, halves], axis=1).astype("u1")
