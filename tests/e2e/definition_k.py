"""q2_k, q4_k and q5_k of core/scheme/DEFINITIONS.md, by that page alone."""

import numpy as np
from definitions import narrow, widen

f32 = np.float32
# Values of a run, largest code, largest code of scales, first and steps of the search, bytes of a block.
FORMATS = {"q2_k": (16, 3, 15, -0.5, 15, 84), "q4_k": (32, 15, 63, -1, 20, 144), "q5_k": (32, 31, 63, -0.5, 15, 176)}


def decode(scheme, shape, planes, u):
    run, block_bytes = FORMATS[scheme][0], FORMATS[scheme][-1]
    blocks = planes["codes"].reshape(-1, block_bytes)
    d, dmin, sc, mn = params_of(scheme, blocks)
    step, low = d * sc.astype(f32), dmin * mn.astype(f32)
    codes = codes_of(scheme, blocks).reshape(-1, 256 // run, run)
    return (step[..., None] * codes.astype(f32) - low[..., None]).astype(u).reshape(shape)


def codes_of(scheme, blocks):
    """The 256 codes of each block."""
    if scheme == "q2_k":
        return unpack_pairs(blocks[:, 16:80])
    codes = blocks[:, -128:].reshape(-1, 4, 1, 32)
    codes = np.concatenate([codes & 15, codes >> 4], axis=2).reshape(-1, 8, 32)
    if scheme == "q5_k":
        codes = codes | (blocks[:, 16:48][:, None, :] >> np.arange(8, dtype="u1")[None, :, None] & 1) << 4
    return codes.reshape(-1, 256)


def unpack_pairs(packed):
    return np.stack([packed.reshape(-1, 2, 32) >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(-1, 256)


def pack_pairs(codes):
    codes = (codes & 3).reshape(-1, 2, 4, 32)
    return (codes[:, :, 0] | codes[:, :, 1] << 2 | codes[:, :, 2] << 4 | codes[:, :, 3] << 6).reshape(-1, 64)


def params_of(scheme, blocks):
    """d and dmin of each block, the codes of the runs' scales and minima."""
    at = 80 if scheme == "q2_k" else 0
    d = widen(np.ascontiguousarray(blocks[:, at : at + 4]).view("<u2"), "f16", f32)
    if scheme == "q2_k":
        return d[:, :1], d[:, 1:], blocks[:, :16] & 15, blocks[:, :16] >> 4
    b = blocks[:, 4:16].astype(np.int64)
    sc = np.concatenate([b[:, 0:4] & 63, b[:, 8:12] & 15 | b[:, 0:4] >> 6 << 4], axis=1)
    mn = np.concatenate([b[:, 4:8] & 63, b[:, 8:12] >> 4 | b[:, 4:8] >> 6 << 4], axis=1)
    return d[:, :1], d[:, 1:], sc, mn


def near(v):
    bits = (v + f32(12582912)).astype(f32).view(np.int32).astype(np.int64)
    return (bits & 0x7FFFFF) - 0x400000


def total(terms, begin=None):
    """The sum over the last axis, in order."""
    result = np.zeros(terms.shape[:-1], f32) if begin is None else begin
    for k in range(0 if begin is None else 1, terms.shape[-1]):
        result = result + terms[..., k]
    return result


def search(x, w, top, residual, first, step, steps):
    lo, hi = x.min(axis=1), x.max(axis=1)
    weight, weighted = total(w, w[:, 0]), total(w * x, (w * x)[:, 0])
    lo = np.minimum(lo, f32(0))
    flat = hi <= lo
    i = f32(top) / (hi - lo)
    scale = f32(1) / i
    codes = np.clip(near(i[:, None] * (x - lo[:, None])), 0, top)
    e = scale[:, None] * codes.astype(f32) + lo[:, None] - x
    best, start = total(w * residual(e)), lo
    for k in range(steps + 1):
        i = (f32(first) + f32(step) * f32(k) + f32(top)) / (hi - lo)
        c = np.clip(near(i[:, None] * (x - lo[:, None])), 0, top)
        cf = c.astype(f32)
        sl, sll, sxl = total(w * cf), total(w * cf * cf), total(w * cf * x)
        det = weight * sll - sl * sl
        a, b = (weight * sxl - weighted * sl) / det, (sll * weighted - sl * sxl) / det
        above = b > 0
        a, b = np.where(above, sxl / sll, a), np.where(above, f32(0), b)
        e = a[:, None] * cf + b[:, None] - x
        error = total(w * residual(e))
        better = (det > 0) & (error < best)
        best, scale, lo = np.where(better, error, best), np.where(better, a, scale), np.where(better, b, lo)
        codes = np.where(better[:, None], c, codes)
    return (np.where(flat, f32(0), scale), np.where(flat, -start, -lo), weight,
            np.where(flat[:, None], 0, codes))


def by_largest(s, most):
    top = np.maximum(s.max(axis=1), f32(0))
    inverse = np.where(top > 0, f32(most) / top, f32(0))
    codes = near(inverse[:, None] * s) & 255
    return np.minimum(most, codes) if most == 63 else codes, top / f32(most)


def by_search(s, u, most):
    """One block after the other."""
    codes, factors = np.zeros(s.shape, np.int64), np.zeros(len(s), f32)
    for row, (values, weights) in enumerate(zip(s, u)):
        codes[row], factors[row] = search_codes(values, weights, most)
    return codes, factors


def search_codes(s, u, most):
    top = max(f32(0), s.max())
    if top < f32(1e-15):
        return np.zeros(len(s), np.int64), f32(0)
    i = f32(most) / top
    codes = near(i * s)
    e = s - (f32(1) / i) * codes.astype(f32)
    best = total(u * e * e)
    for k in (-4, -3, -2, -1, 1, 2, 3, 4):
        j = (f32(0.1) * f32(k) + f32(most)) / top
        e = s - (f32(1) / j) * np.minimum(most, near(j * s)).astype(f32)
        error = total(u * e * e)
        if error < best:
            best, i = error, j
    codes = np.minimum(most, near(i * s))
    cf = codes.astype(f32)
    a_sum, q_sum = total(u * s * cf), total(u * cf * cf)
    for _ in range(5):
        changed = False
        for k in range(len(s)):
            code = f32(codes[k])
            a, q = a_sum - u[k] * s[k] * code, q_sum - u[k] * code * code
            if not (a > 0 and q > 0):
                continue
            c = min(most, int(near(s[k] * q / a)))
            if c == codes[k]:
                continue
            a, q = a + u[k] * s[k] * f32(c), q + u[k] * f32(c) * f32(c)
            if a * a * q_sum > a_sum * a_sum * q:
                codes[k], a_sum, q_sum, changed = c, a, q, True
        if not changed:
            break
    return codes, a_sum / q_sum if q_sum > 0 else f32(0)


def encode(scheme, x, importance=None):
    """`importance` has a weight for each value, or is None."""
    run, highest, most, first, steps, block_bytes = FORMATS[scheme]
    runs, largest = 256 // run, np.finfo(f32).max
    x = np.clip(x, -largest, largest).astype(f32).reshape(-1, run)
    square = lambda e: e * e
    if importance is None:
        w = np.abs(x)
        if scheme != "q2_k":
            w = np.sqrt(total(x * x) / f32(run))[:, None] + w
        residual = np.abs if scheme == "q2_k" else square
        scale, low, weight, codes = search(x, w, highest, residual, first, 0.1, steps)
        (sc, d), (mn, dmin) = (by_largest(v.reshape(-1, runs), most) for v in (scale, low))
    else:
        twice = f32(1 if scheme == "q2_k" else 2)
        energy = np.repeat(twice * total((x * x).reshape(-1, 256)) / f32(256), runs)[:, None]
        w = importance.reshape(-1, run).astype(f32) * np.sqrt(energy + x * x)
        scale, low, weight, codes = search(x, w, highest, square, -0.9, 0.05, 36)
        (sc, d), (mn, dmin) = (by_search(v.reshape(-1, runs), weight.reshape(-1, runs), most) for v in (scale, low))
    halves = np.stack([d, dmin], axis=1)
    halves = narrow(np.where(np.isnan(halves), f32(0), halves), "f16", propagate=True).astype("<u2").view("u1")
    if scheme == "q2_k":
        scales = (sc | mn << 4).astype("u1")
        fields = np.concatenate([scales, np.zeros((len(sc), 64), "u1"), halves], axis=1)
    else:
        scales = np.concatenate([sc[:, :4] | sc[:, 4:] >> 4 << 6, mn[:, :4] | mn[:, 4:] >> 4 << 6,
                                 sc[:, 4:] & 15 | (mn[:, 4:] & 15) << 4], axis=1).astype("u1")
        fields = np.concatenate([halves, scales], axis=1)
    d, dmin, sc, mn = params_of(scheme, fields)
    t, low = (d * sc.astype(f32)).reshape(-1, 1), (dmin * mn.astype(f32)).reshape(-1, 1)
    codes = np.where(t != 0, np.clip(near((x + low) / t), 0, highest), codes)
    if scheme == "q2_k":
        return np.concatenate([scales, pack_pairs(codes), halves], axis=1).astype("u1")
    pairs = (codes & 15).reshape(-1, 4, 2, 32)
    parts = [fields, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)]
    if scheme == "q5_k":
        bits = (codes >> 4).reshape(-1, 8, 32)
        parts.insert(1, (bits << np.arange(8)[:, None]).sum(axis=1))
    return np.concatenate(parts, axis=1).astype("u1")
