"""Makes the golden file of nf4 with nested scales with bitsandbytes on the CPU (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_bitsandbytes.py

The offset is torch's mean of the scales, and the order in which torch adds depends on its build and,
from 32768 scales on, on the number of threads. So only inputs are kept on which it is the f32 nearest
to the true mean, as any careful sum finds it.
"""

import math

import bitsandbytes.functional
import numpy as np
import torch

from hard_values import hard_groups
from make_golden import GoldenFile, versions

COMMAND = "python tests/golden/make_bitsandbytes.py"


def run_nested(x):
    """Returns the planes of x, what they decode to, and the true mean of the scales."""
    flat = torch.from_numpy(x.reshape(-1))
    packed, state = bitsandbytes.functional.quantize_4bit(
        flat, blocksize=64, quant_type="nf4", compress_statistics=True)
    _, plain = bitsandbytes.functional.quantize_4bit(flat, blocksize=64, quant_type="nf4")
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
    rng = np.random.default_rng(20240606)
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


if __name__ == "__main__":
    make_nested()
