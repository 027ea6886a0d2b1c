"""iq4_nl and iq4_xs of core/scheme/DEFINITIONS.md, by that page alone."""

import numpy as np
from definition_k import near, total
from definition_scales import top_of
from definitions import F32_MAX, narrow, widen

f32 = np.float32
T = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
BLOCK_BYTES = {"iq4_nl": 18, "iq4_xs": 136}


def decode(scheme, shape, planes, u):
    blocks = planes["codes"].reshape(-1, BLOCK_BYTES[scheme])
    step = widen(np.ascontiguousarray(blocks[:, :2]).view("<u2"), "f16", f32)
    packed = blocks[:, 2:] if scheme == "iq4_nl" else blocks[:, 8:]
    if scheme == "iq4_xs":
        high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2").astype(np.int64) >> 2 * np.arange(8) & 3
        low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
        step = step * ((low | high << 4) - 32).astype(f32)
    packed = packed.reshape(-1, 16)
    index = np.concatenate([packed & 15, packed >> 4], axis=1)
    return (step.reshape(-1, 1) * T[index].astype(f32)).astype(u).reshape(shape)


def index_of(v):
    edges = (T[1:] + T[:-1]).astype(f32)
    return ((v + v)[..., None] >= edges).sum(axis=-1)


def search(x, w):
    top = top_of(x)
    for k in [None, *range(-7, 8)]:
        i = f32(1) / (top / f32(127)) if k is None else f32(k - 127) / top
        q = T[index_of(i[:, None] * x)].astype(f32)
        xq, qq = total(w * q * x), total(w * q * q)
        if k is None:
            scale = np.where(qq > 0, xq / qq, f32(0))
            best = scale * xq
            continue
        better = (qq > 0) & (xq * xq > best * qq)
        scale = np.where(better, xq / qq, scale)
        best = np.where(better, scale * xq, best)
    return np.where(top == 0, f32(0), scale)


def inverse_of(scale):
    return np.where(scale == 0, f32(0), f32(1) / scale)


def encode(scheme, x, importance=None):
    """`importance` has a weight for each value, or is None."""
    block = 32 if scheme == "iq4_nl" else 256
    x = np.clip(x, -F32_MAX, F32_MAX).astype(f32).reshape(-1, 32)
    w = x * x
    if importance is not None:
        s = total(w.reshape(-1, block)) * f32(2 / block)
        w = importance.reshape(-1, 32).astype(f32) * np.sqrt(np.repeat(s, block // 32)[:, None] + w)
    scale = search(x, w)
    if scheme == "iq4_nl":
        d, step, fields = scale, scale, []
    else:
        scales = scale.reshape(-1, 8)
        size = np.where(np.isnan(scales), 0, np.abs(scales))
        m = np.take_along_axis(scales, size.argmax(axis=1)[:, None], 1)
        d = -np.where(size.max(axis=1, keepdims=True) > 0, m, f32(0)) / f32(32)
        sc = np.clip(near(inverse_of(d) * scales), -32, 31)
        step = (d * sc.astype(f32)).reshape(-1)
        high = ((sc + 32 >> 4) << 2 * np.arange(8)).sum(axis=1).astype("<u2").view("u1").reshape(-1, 2)
        low = (sc + 32 & 15).reshape(-1, 4, 2)
        fields = [high, low[:, :, 0] | low[:, :, 1] << 4]
    index = index_of(inverse_of(step)[:, None] * x)
    packed = (index[:, :16] | index[:, 16:] << 4).reshape(-1, block // 2)
    d = np.where(np.isnan(d), f32(0), d).astype(f32)
    halves = narrow(d, "f16", propagate=True).astype("<u2").view("u1").reshape(-1, 2)
    return np.concatenate([halves, *fields, packed], axis=1).astype("u1")
