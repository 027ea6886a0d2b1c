"""What quantd must give, computed with numpy alone."""

import numpy as np
import xxhash

FLT_MIN = float(np.finfo(np.float32).tiny)


def symmetric_scale(absmax, qmax):
    """Absmax over qmax in double, rounded once to f32; 1 for an all-zero group."""
    absmax = np.asarray(absmax, np.float64)
    scale = np.maximum(absmax / qmax, FLT_MIN).astype(np.float32)
    return np.where(absmax == 0, np.float32(1), scale)


def asymmetric_params(low, high, qmin, qmax):
    """The range widened to 0, in double; the scale rounded once to f32, the zero point nearest."""
    low = np.minimum(np.asarray(low, np.float64), 0)
    high = np.maximum(np.asarray(high, np.float64), 0)
    scale = np.maximum((high - low) / (qmax - qmin), FLT_MIN).astype(np.float32)
    scale = np.where(high == low, np.float32(1), scale)
    zero = np.clip(np.rint(qmin - low / scale.astype(np.float64)), qmin, qmax)
    return scale, zero.astype(np.int64)


def codes_of(x, scale, zero, qmin, qmax):
    """clip(round_half_even(x / scale) + zero), in the type of x (f16 as f32)."""
    x = x.astype(np.float32) if x.dtype == np.float16 else x
    return np.clip(np.rint(x / scale.astype(x.dtype)) + zero, qmin, qmax)


def int8_per_tensor(x):
    scale = symmetric_scale(np.abs(x).max(initial=0), 127)
    return codes_of(x, scale, 0, -127, 127).astype(np.int8), scale


def int8_axis0(x):
    rows = np.abs(x).reshape(len(x), -1)
    scale = symmetric_scale(rows.max(axis=1, initial=0), 127)
    broad = scale.reshape(-1, *[1] * (x.ndim - 1))
    return codes_of(x, broad, 0, -127, 127).astype(np.int8), scale


def int8_group(x, group):
    """Groups on the last axis; the last one may be short."""
    starts = np.arange(0, x.shape[-1], group)
    scale = symmetric_scale(np.maximum.reduceat(np.abs(x), starts, axis=-1), 127)
    broad = np.repeat(scale, group, axis=-1)[..., : x.shape[-1]]
    return codes_of(x, broad, 0, -127, 127).astype(np.int8), scale


def bf16_bits(x):
    """f64 rounded once to the nearest bf16: through an f32 that keeps a sticky last bit."""
    narrow = x.astype(np.float32)
    narrow = np.where(np.abs(narrow.astype(np.float64)) > np.abs(x),
                      np.nextafter(narrow, np.float32(0)), narrow)
    bits = narrow.view(np.uint32) | (narrow.astype(np.float64) != x)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def sqnr_db(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return 10 * np.log10((x**2).sum() / ((x - y) ** 2).sum())


def cosine(x, y):
    x, y = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def digest(plane):
    """XXH3-128 over the XXH3-128 hashes of the plane's 4 KiB leaves."""
    leaves = [plane[i : i + 4096] for i in range(0, len(plane), 4096)]
    return "xxh3_4k:" + xxhash.xxh3_128_hexdigest(b"".join(xxhash.xxh3_128_digest(l) for l in leaves))


def _crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC32C = _crc32c_table()


def crc32c(data):
    """CRC32C (Castagnoli) of a few kilobytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
