"""Makes the golden files of MLX's formats with MLX on the CPU (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-mlx.txt
    venv/bin/python tests/golden/make_mlx.py
"""

import ml_dtypes
import mlx.core as mx
import numpy as np

from hard_values import hard_groups, neighbours
from make_golden import GoldenFile, random_values, versions

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


def run_mode(x, mode, bits, group, kind):
    """Returns the codes and scales of a mode of floats, and what MLX decodes them to as f32."""
    words, scale = mx.quantize(to_mlx(x, TYPES[kind][1]), group_size=group, bits=bits, mode=mode)
    decoded = mx.dequantize(words, scale, group_size=group, bits=bits, mode=mode, dtype=mx.float32)
    codes = np.array(words).view(np.uint8).reshape(x.shape[:-1] + (x.shape[-1] * bits // 8,))
    return {"codes": codes, "scale": np.array(scale)}, np.array(decoded)


def float_blocks(values, group, top, rng):
    """Blocks of `group` that begin with `top` times a power of two: middles of the element's values
    and their neighbours, of scales that keep them exact."""
    middles = (values[1:] + values[:-1]) / 2
    near = neighbours(np.concatenate([middles, -middles, values, -values]))
    near = near[np.abs(near) <= top]
    blocks = np.resize(rng.permutation(near), (16, group - 1))
    blocks = np.concatenate([np.full((16, 1), top), blocks], axis=1)
    return (blocks * 2.0 ** rng.integers(-6, 6, (16, 1))).astype(np.float32)


def make_modes():
    """mxfp4, mxfp8 and nvfp4, and values in reach of all their scales: below them MLX's wrap, and near f32's
    end it decodes infinities."""
    rng = random_values(20240606)
    file = affine_file("mlx_modes")
    e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    e4m3 = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    scales = neighbours(2.0 ** rng.integers(-115, 120, 48))
    for scheme, mode, bits, values in (("mxfp4", "mxfp4", 4, e2m1), ("mxfp8_e4m3", "mxfp8", 8, e4m3)):
        absmax = np.zeros((scales.size, 32))
        absmax[:, 0] = scales * values[-1]
        inputs = {
            "random": rng.standard_normal((4, 256)) * np.exp(rng.uniform(-3, 3, (4, 1))),
            "ties": float_blocks(values, 32, values[-1], rng).reshape(4, 128),
            "absmax": absmax.reshape(-1, 96),
            "zeros": np.where(rng.random((2, 64)) < 0.5, -0.0, 0.0),
            "hard": hard_groups(32, rng)[[0, 3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]],
        }
        add_mode(file, scheme, mode, bits, 32, inputs)
    inputs = {
        "random": rng.standard_normal((4, 256)) * np.exp(rng.uniform(-3, 3, (4, 1))),
        "ties": float_blocks(e2m1, 16, 6, rng).reshape(2, 128),
        "scales": neighbours((e4m3[:-1] + e4m3[1:]) / 2)[:, None] * np.full((1, 16), 6.0),
        "beyond": rng.uniform(-1, 1, (4, 64)) * np.array([[2688], [3000], [1e9], [1e10]]),
        "hard": hard_groups(16, rng)[[*range(17), 10]],
    }
    # Left out: values from 2^25 scales on, which saturate here and are 0 in MLX.
    inputs["scales"][:, 1:] *= rng.uniform(-1, 1, inputs["scales"][:, 1:].shape)
    inputs["scales"] = inputs["scales"].reshape(-1, 48)
    inputs["hard"] = inputs["hard"].reshape(-1, 96)
    add_mode(file, "nvfp4", "nvfp4", 4, 16, inputs)
    file.write()


def add_mode(file, scheme, mode, bits, group, inputs):
    for kind in TYPES:
        for label, x in inputs.items():
            if kind != "f32" and label not in ("random", "ties"):
                continue
            x = np.ascontiguousarray(x.astype(TYPES[kind][0]))
            planes, decoded = run_mode(x, mode, bits, group, kind)
            file.add(f"{scheme}_{kind}_{label}", f"{scheme}:dialect=mlx", x.shape, x, planes=planes,
                     decoded=decoded if kind == "f32" else None, digest=True)


def make_mlx():
    file = affine_file("mlx_q3")
    add_cases(file, 3, random_values(20240604), "", TYPES, (32, 64, 128))
    file.write()
    file = affine_file("mlx_affine")
    rng = random_values(20240605)
    for bits in (2, 4, 5, 6, 8):
        prefix = f"q{bits}_"
        add_cases(file, bits, rng, prefix, ("f32",), (32, 64, 128), file.tensors)
        add_cases(file, bits, rng, prefix, ("f16", "bf16"), (64,), file.tensors)
    file.write()


if __name__ == "__main__":
    make_mlx()
    make_modes()
