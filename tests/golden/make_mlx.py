"""Makes the golden files of MLX's formats with MLX on the CPU (see make_golden.py).

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


def run_mlx(x, bits, group, kind):
    """Returns the planes of x and what MLX decodes them to (in the type of x)."""
    dtype, mlx_dtype = TYPES[kind]
    words, scale, bias = mx.quantize(to_mlx(x, mlx_dtype), group_size=group, bits=bits)
    decoded = mx.dequantize(words, scale, bias, group_size=group, bits=bits)
    planes = {"codes": np.array(words), "scale": to_numpy(scale, dtype), "bias": to_numpy(bias, dtype)}
    return planes, to_numpy(decoded, dtype).astype(np.float32)


def tie_groups(bits, rng):
    """Groups of 32 with values on and beside (k + 1/2) * scale + bias, as MLX gives these."""
    blocks = np.zeros((24, 32), np.float32)
    blocks[:, :2] = rng.uniform(-4, 4, (24, 2))
    most = 2**bits - 1
    blocks[0, :2] = -(most // 2), most // 2 + 1  # a step of 1
    blocks[1, :2] = -most / 2, most / 2  # the edge itself lies halfway
    for block in blocks:
        block[2:] = block[0]
        planes, _ = run_mlx(block[None, :], bits, 32, "f32")
        scale, bias = planes["scale"][0, 0], planes["bias"][0, 0]
        near = neighbours((np.arange(-1, most + 1) + np.float32(0.5)) * scale + bias)
        near = near[(near <= block[:2].max()) & (near >= block[:2].min())]
        block[2:] = rng.choice(near, 30)
    return blocks


def hard_rows(kind, rng):
    """hard_groups(), held to the range of the type."""
    rows = hard_groups(128, rng)
    if kind == "f16":
        rows = np.clip(rows, -65504, 65504)
    return rows if kind == "f32" else rows[::2]


def add_cases(file, bits, rng, prefix, kinds, groups, shared=None):
    """Cases of one width; inputs but the ties are those of `shared`, by key, where it has them."""
    for kind in kinds:
        dtype = TYPES[kind][0]
        inputs = {
            "random": rng.standard_normal((4, 256)) * np.exp(rng.uniform(-3, 3, (4, 1))),
            "ties": tie_groups(bits, rng).reshape(6, 128),
            "hard": hard_rows(kind, rng),
            "rank3": rng.uniform(-1, 1, (2, 2, 128)),
        }
        for label, x in inputs.items():
            key = f"inputs/{kind}_{label}" if label != "ties" else f"inputs/{prefix}{kind}_{label}"
            if shared is not None and key in shared:
                x = shared[key]
            else:
                x = np.ascontiguousarray(x.astype(dtype))
                file.share(key, x)
            for group in groups:
                planes, decoded = run_mlx(x, bits, group, kind)
                file.add(f"{prefix}{kind}_group{group}_{label}", f"mlx_q{bits}:group={group}", x.shape,
                         shared=key, planes=planes, decoded=decoded if kind == "f32" else None,
                         digest=True)


def affine_file(name):
    return GoldenFile(name, "quantize and dequantize of " + versions("mlx", "mlx-cpu"), COMMAND)


def make_mlx():
    file = affine_file("mlx_q3")
    add_cases(file, 3, np.random.default_rng(20240604), "", TYPES, (32, 64, 128))
    file.write()
    file = affine_file("mlx_affine")
    rng = np.random.default_rng(20240605)
    for bits in (2, 4, 5, 6, 8):
        prefix = f"q{bits}_"
        add_cases(file, bits, rng, prefix, ("f32",), (32, 64, 128), file.tensors)
        add_cases(file, bits, rng, prefix, ("f16", "bf16"), (64,), file.tensors)
    file.write()


if __name__ == "__main__":
    make_mlx()
