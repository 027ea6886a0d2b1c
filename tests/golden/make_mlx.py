"""Makes the golden file of mlx_q3 with MLX on the CPU (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-mlx.txt
    venv/bin/python tests/golden/make_mlx.py
"""

import ml_dtypes
import mlx.core as mx
import numpy as np

from hard_values import hard_groups, neighbours
from make_golden import GoldenFile, versions

COMMAND = "python tests/golden/make_mlx.py"
TYPES = {"f32": (np.float32, mx.float32), "f16": (np.float16, mx.float16),
         "bf16": (ml_dtypes.bfloat16, mx.bfloat16)}


def to_mlx(x, dtype):
    """x of dtype's numpy type; by its bits, since not every conversion knows bf16."""
    if x.itemsize == 4:
        return mx.array(x)
    return mx.view(mx.array(x.view(np.uint16)), dtype)


def to_numpy(x, dtype):
    if np.dtype(dtype).itemsize == 4:
        return np.array(x)
    return np.array(mx.view(x, mx.uint16)).view(dtype)


def run_mlx(x, group, kind):
    """Returns the planes of x and what MLX decodes them to (in the type of x)."""
    dtype, mlx_dtype = TYPES[kind]
    words, scale, bias = mx.quantize(to_mlx(x, mlx_dtype), group_size=group, bits=3)
    decoded = mx.dequantize(words, scale, bias, group_size=group, bits=3)
    planes = {"codes": np.array(words), "scale": to_numpy(scale, dtype), "bias": to_numpy(bias, dtype)}
    return planes, to_numpy(decoded, dtype).astype(np.float32)


def tie_groups(rng):
    """Groups of 32 with values on and beside (k + 1/2) * scale + bias, as MLX gives these."""
    blocks = np.zeros((24, 32), np.float32)
    blocks[:, :2] = rng.uniform(-4, 4, (24, 2))
    blocks[0, :2] = -3, 4  # a step of 1
    blocks[1, :2] = -3.5, 3.5  # the edge itself lies halfway
    for block in blocks:
        block[2:] = block[0]
        planes, _ = run_mlx(block[None, :], 32, "f32")
        scale, bias = planes["scale"][0, 0], planes["bias"][0, 0]
        near = neighbours((np.arange(-1, 8) + np.float32(0.5)) * scale + bias)
        near = near[(near <= block[:2].max()) & (near >= block[:2].min())]
        block[2:] = rng.choice(near, 30)
    return blocks


def hard_rows(kind, rng):
    """hard_groups(), held to the range of the type."""
    rows = hard_groups(128, rng)
    if kind == "f16":
        rows = np.clip(rows, -65504, 65504)
    return rows if kind == "f32" else rows[::2]


def make_mlx():
    rng = np.random.default_rng(20240604)
    file = GoldenFile("mlx_q3", "quantize and dequantize of " + versions("mlx", "mlx-cpu"), COMMAND)
    for kind, (dtype, _) in TYPES.items():
        inputs = {
            "random": rng.standard_normal((4, 256)) * np.exp(rng.uniform(-3, 3, (4, 1))),
            "ties": tie_groups(rng).reshape(6, 128),
            "hard": hard_rows(kind, rng),
            "rank3": rng.uniform(-1, 1, (2, 2, 128)),
        }
        for label, x in inputs.items():
            x = np.ascontiguousarray(x.astype(dtype))
            key = file.share(f"inputs/{kind}_{label}", x)
            for group in (32, 64, 128):
                planes, decoded = run_mlx(x, group, kind)
                file.add(f"{kind}_group{group}_{label}", f"mlx_q3:group={group}", x.shape, shared=key,
                         planes=planes, decoded=decoded if kind == "f32" else None, digest=True)
    file.write()


if __name__ == "__main__":
    make_mlx()
