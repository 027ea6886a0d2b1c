"""Makes the golden files of nf4 with nested scales, and of fp4, with bitsandbytes on the CPU (see
make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-bitsandbytes.txt
    venv/bin/python tests/golden/make_bitsandbytes.py

The offset is torch's mean of the scales, and the order in which torch adds depends on its build and,
from 32768 scales on, on the number of threads. So only inputs are kept on which it is the f32 nearest
to the true mean, as any careful sum finds it.
"""

import math

import bitsandbytes.functional
import numpy as np
import torch

from hard_values import hard_groups, neighbours
from make_golden import GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_bitsandbytes.py"


def run_plain(x):
    """Returns the planes of x in fp4, and what they decode to."""
    packed, state = bitsandbytes.functional.quantize_4bit(torch.from_numpy(x.reshape(-1)), blocksize=64,
                                                          quant_type="fp4")
    decoded = bitsandbytes.functional.dequantize_4bit(packed, state).numpy()
    scale = state.absmax.numpy()
    # quantd has scale 1 for all-zero blocks, as in all schemes.
    return {"codes": packed.numpy().ravel(), "scale": np.where(scale == 0, np.float32(1), scale),
            "codebook": state.code.numpy()}, decoded


def run_nested(x, quant_type="nf4"):
    """Returns the planes of x, what they decode to, and the true mean of the scales."""
    flat = torch.from_numpy(x.reshape(-1))
    packed, state = bitsandbytes.functional.quantize_4bit(
        flat, blocksize=64, quant_type=quant_type, compress_statistics=True)
    _, plain = bitsandbytes.functional.quantize_4bit(flat, blocksize=64, quant_type=quant_type)
    decoded = bitsandbytes.functional.dequantize_4bit(packed, state).numpy()
    planes = {
        "codes": packed.numpy().ravel(),
        "scale": state.absmax.numpy(),
        "nested_scale": state.state2.absmax.numpy(),
        "nested_offset": state.offset.numpy().reshape(1),
        "codebook": state.code.numpy(),
        "nested_codebook": state.state2.code.numpy(),
    }
    scales = plain.absmax.numpy().astype(np.float64)
    return planes, decoded, np.float32(math.fsum(scales) / scales.size)


def with_peaks(peaks, rng):
    """Blocks of 64 with the given largest values."""
    x = rng.uniform(-0.9, 0.9, (len(peaks), 64))
    x[:, 13] = np.where(rng.random(len(peaks)) < 0.5, 1, -1)
    return x * np.asarray(peaks)[:, None]


def make_inputs(rng):
    """One try at all inputs: whichever has a mean that torch misses is tried again."""
    zeros = rng.standard_normal((12, 64))
    zeros[[2, 7, 8]] = 0  # here their scale is 0, not 1: it counts in the mean
    tame = hard_groups(64, rng)
    tame = np.where(np.abs(tame) > 1e7, np.sign(tame) * 1e6, tame)
    # Left out, as in nf4: blocks whose scale is below the CPU code's 1e-38, which quantd lacks.
    largest = np.abs(tame).max(1)
    tame = tame[(largest == 0) | (largest > 1e-37)]
    # Scales on a grid, so that differences from the mean lie on and beside borders of the code book.
    grid = 1 + rng.permutation(np.arange(-20, 21)) / 64
    return {
        "random": rng.standard_normal((5, 192)),
        "two_nested": rng.standard_normal((257, 64)) * np.exp(rng.uniform(-1, 1, (257, 1))),
        "grid": with_peaks(grid, rng),
        "hard": tame,
        "zero_blocks": zeros,
        "short_block": rng.standard_normal((5, 26)),
        "odd": rng.standard_normal(64 * 3 + 17),
    }


def make_nested():
    rng = random_values(20240606)
    file = GoldenFile("nf4_nested8", "quantize_4bit and dequantize_4bit, nf4 with compressed "
                      "statistics, on the CPU of " + versions("bitsandbytes", "torch"), COMMAND)
    inputs = {}
    while len(inputs) < 7:
        for name, x in make_inputs(rng).items():
            x = np.ascontiguousarray(x.astype(np.float32))
            planes, _, mean = run_nested(x)
            if name not in inputs and planes["nested_offset"][0] == mean:
                inputs[name] = x
    inputs |= {
        "one_block": np.linspace(-2.5, 1.5, 64, dtype=np.float32),  # nothing left to nest
        "all_equal": np.full((3, 64), 0.7, np.float32),
        "all_zero": np.zeros((2, 64), np.float32),
        "two_blocks": np.repeat(np.array([[0.25], [-1.0]], np.float32), 64, axis=1),
        "big_and_small": np.repeat(np.array([[2.0**100], [2.0**-100]], np.float32), 64, axis=1),
    }
    for name, x in sorted(inputs.items()):
        planes, decoded, mean = run_nested(x)
        assert planes["nested_offset"][0] == mean, name
        if name != "random":  # they are always the same
            del planes["codebook"], planes["nested_codebook"]
        file.add(name, "nf4:scale_type=nested8", x.shape, x, planes=planes, decoded=decoded, digest=True)
    file.write()


def without_sign(decoded):
    """Code 8 comes back as 0 or -0, whichever of its kernels decodes it; quant_map has 0."""
    return np.where(decoded == 0, np.float32(0), decoded)


def make_fp4():
    rng = random_values(20240607)
    file = GoldenFile("fp4", "quantize_4bit and dequantize_4bit, fp4, on the CPU of " +
                      versions("bitsandbytes", "torch") + ", with scale 1 for all-zero blocks", COMMAND)
    levels = np.unique(bitsandbytes.functional.get_4bit_type("fp4", device="cpu").numpy())
    middles = (levels[:-1] + levels[1:]) / np.float32(2)
    ties = np.concatenate([neighbours(middles), levels, [1e-9, -1e-9, -0.0]])
    ties = np.resize(ties, (7, 63)) * np.array([[1], [0.5], [8], [1], [2.0**-40], [2.0**60], [1]])
    ties = np.concatenate([np.abs(ties).max(axis=1, keepdims=True), ties], axis=1)
    zeros = rng.standard_normal((4, 64))
    zeros[1] = 0
    plain = {
        "random": rng.standard_normal((5, 192)),
        "ties": ties,
        "wide": rng.standard_normal((6, 128)) * 10.0 ** rng.uniform(-30, 30, (6, 1)),
        "zeros": zeros,
        "odd": rng.standard_normal(64 * 3 + 17),
    }
    for name, x in plain.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        planes, decoded = run_plain(x)
        file.add(name, "fp4", x.shape, x, planes=planes, decoded=without_sign(decoded), digest=True)
    nested = {"all_zero": np.zeros((2, 64), np.float32), "all_equal": np.full((3, 64), 0.7, np.float32)}
    while len(nested) < 5:  # as in make_nested
        for name in ("random", "odd", "short_block"):
            x = np.ascontiguousarray(make_inputs(rng)[name].astype(np.float32))
            planes, _, mean = run_nested(x, "fp4")
            if planes["nested_offset"][0] == mean:
                nested.setdefault(name, x)
    for name, x in nested.items():
        planes, decoded, _ = run_nested(x, "fp4")
        file.add(f"nested_{name}", "fp4:scale_type=nested8", x.shape, x, planes=planes,
                 decoded=without_sign(decoded), digest=True)
    file.write()


if __name__ == "__main__":
    make_nested()
    make_fp4()
