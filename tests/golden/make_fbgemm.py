"""Makes the golden files of fbgemm_rowwise8, 4 and 2 with FBGEMM on the CPU (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-fbgemm.txt
    venv/bin/python tests/golden/make_fbgemm.py
"""

import fbgemm_gpu  # noqa: F401  registers the operators
import numpy as np
import torch

from hard_values import hard_groups, neighbours
from make_golden import FLT_MAX, GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_fbgemm.py"


def run_fbgemm(x):
    """Returns the codes plane of x (rows, columns) and what FBGEMM decodes it to."""
    codes = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(torch.from_numpy(x))
    decoded = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(codes)
    return {"codes": codes.numpy()}, decoded.numpy()


def tie_rows(rng):
    """Rows with values on and beside the middle between two codes."""
    rows = []
    for low, high in [(0, 255), (-1, 1), (-0.3, 2.2), (5, 6), (-1e4, 300), (-127.5, 127.5), (1e-3, 2e-3)]:
        low, high = np.float32(low), np.float32(high)
        step = (high - low) / np.float32(255)
        near = neighbours((rng.integers(0, 255, 20) + np.float32(0.5)) * step + low)
        rows.append(np.concatenate([[low, high], np.clip(near, low, high)]))
    return np.array(rows)


def plain_zeros(x):
    """Without rows whose least value is -0: their bias is -0 or +0 as the kernel likes; ours is +0."""
    return x[~((x.min(-1) == 0) & ((x == 0) & np.signbit(x)).any(-1))]


def make_rowwise8():
    rng = random_values(20240607)
    file = GoldenFile("fbgemm_rowwise8", "FloatToFused8BitRowwiseQuantized and "
                      "Fused8BitRowwiseQuantizedToFloat of " + versions("fbgemm-gpu-cpu", "torch"),
                      COMMAND)
    wide = rng.standard_normal((3, 5000))
    wide[1] *= 1e-3
    wide[2] = np.abs(wide[2]) * 100 + 7
    constant = np.array([0, 1, -1, 0.1, -3.7, 1e-45, -1e-45, 1e-9, 1e30, FLT_MAX, -FLT_MAX])
    narrow = np.array([1, -2, 1e-9, 1e-40, 1e10]).repeat(20).reshape(5, 20)
    narrow = narrow * (1 + 2.0**-23 * rng.integers(0, 3, (5, 20)))
    half = FLT_MAX / 2  # the range itself has to stay finite
    cases = {
        "random": rng.standard_normal((20, 33)) * np.exp(rng.uniform(-6, 6, (20, 1))),
        "wide": wide,
        "constant": np.repeat(constant[:, None], 19, axis=1),
        "narrow": narrow,
        "ties": tie_rows(rng),
        "hard": plain_zeros(hard_groups(64, rng)),
        "small_range": rng.uniform(-1, 1, (12, 24)) * 10.0 ** -np.arange(4, 16)[:, None],
        "largest": np.array([[half, -half, 0, 1e38], [FLT_MAX, 0, 1, 1e38], [-FLT_MAX, 0, -1, -1e38]]),
        "one_column": rng.standard_normal((5, 1)),
        "two_columns": np.array([[0, 255], [-1, 1], [1, 1 + 2.0**-23], [3, -5]]),
        "odd": rng.standard_normal((3, 7)),
        "one_row": rng.uniform(-2, 2, (1, 255)),
    }
    for name, x in cases.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        planes, decoded = run_fbgemm(x)
        assert np.isfinite(decoded).all()
        file.add(name, "fbgemm_rowwise8", x.shape, x, planes=planes, decoded=decoded, digest=True)
    file.write()


def run_narrow(x, bits):
    """The same of rows of 2 or 4 bits."""
    codes = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(torch.from_numpy(x), bits)
    decoded = torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(codes, bits)
    return {"codes": codes.numpy()}, decoded.numpy()


def narrow_ties(bits, rng):
    """Rows of scales that f16 holds, with values on and beside the middle between two codes."""
    rows, last = [], 2**bits - 1
    for low, step in [(0, 1), (-1, 0.125), (-2.5, 0.5), (5, 0.25), (-1000, 64), (0.5, 2.0**-14)]:
        near = neighbours((rng.integers(0, last, 20) + np.float32(0.5)) * np.float32(step) + np.float32(low))
        rows.append(np.concatenate([[low, low + last * step], near]))
    return np.array(rows)


def make_narrow(bits):
    rng = random_values(20240608)
    file = GoldenFile(f"fbgemm_rowwise{bits}", "FloatToFusedNBitRowwiseQuantizedSBHalf and "
                      "FusedNBitRowwiseQuantizedSBHalfToFloat of " + versions("fbgemm-gpu-cpu", "torch"),
                      COMMAND)
    wide = rng.standard_normal((3, 5000))
    wide[1] *= 1e-3
    wide[2] = np.abs(wide[2]) * 100 + 7
    constant = np.array([0, 1, -1, 0.1, -3.7, 1e-45, -1e-45, 1e-9, 6e4, -6e4, 1 + 2.0**-20])
    within = hard_groups(64, rng)  # f16 has to hold the least value and the scale
    within = within[(np.abs(within).max(-1) < 60000)]
    cases = {
        "random": rng.standard_normal((20, 40)) * np.exp(rng.uniform(-6, 6, (20, 1))),
        "wide": wide,
        "constant": np.repeat(constant[:, None], 24, axis=1),
        "ties": np.pad(narrow_ties(bits, rng), ((0, 0), (0, 2)), mode="edge"),
        "hard": plain_zeros(within),
        "small_range": rng.uniform(-1, 1, (12, 24)) * 10.0 ** -np.arange(0, 12)[:, None],
        "offset": rng.uniform(0, 1, (6, 24)) * 2.0 ** -np.arange(6)[:, None] + 1000.3,
        "one_row": rng.uniform(-2, 2, (1, 256)),
    }
    for name, x in cases.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        planes, decoded = run_narrow(x, bits)
        assert np.isfinite(decoded).all()
        file.add(name, f"fbgemm_rowwise{bits}", x.shape, x, planes=planes, decoded=decoded, digest=True)
    file.write()


if __name__ == "__main__":
    make_rowwise8()
    make_narrow(4)
    make_narrow(2)
