"""Makes the golden file of the dialect modelopt of nvfp4 and fp8_e4m3, with NVIDIA ModelOpt (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-modelopt.txt
    venv/bin/python tests/golden/make_modelopt.py

On the CPU, from f32, by the functions that its export of checkpoints calls: weight_scale_2 is the plane
global_scale. A tensor of zeros has codes and scales of NaN there, so it is in no case. E2M1's code 8 is
decoded to 0 there, to -0 here, as compressed-tensors has it.
"""

import numpy as np
import torch
from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor

from hard_values import hard_groups, neighbours
from make_golden import FLT_MAX, GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_modelopt.py"


def run_nvfp4(x):
    """Returns the planes of x (rows, columns) and what they decode to."""
    quantized, scale, scale_2 = NVFP4QTensor.quantize(torch.from_numpy(x.copy()), 16)
    decoded = quantized.dequantize(scale=scale, double_scale=scale_2, block_sizes={-1: 16})
    packed = quantized._quantized_data.numpy()
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(x.shape)
    decoded = np.where(codes == 8, np.float32(-0.0), decoded.numpy())
    return {"codes": packed, "scale": scale.view(torch.uint8).numpy(),
            "global_scale": scale_2.numpy()}, decoded


def nvfp4_ties(rng):
    """Values on and beside the ties of E2M1, for the factors that the package itself computes."""
    blocks = np.zeros((40, 16), np.float32)
    blocks[:, 0] = 4 * 2.0 ** -rng.uniform(0, 12, 40)
    blocks[0, 0] = 4
    planes, _ = run_nvfp4(blocks)
    factor = torch.from_numpy(planes["scale"]).view(torch.float8_e4m3fn).float().numpy() * planes["global_scale"]
    beside = neighbours((np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32) * factor).ravel()).reshape(40, 21)
    heads = blocks[:, :1].copy()
    blocks[:, 1:] = np.array([rng.permutation(row)[:15] for row in beside])
    blocks[:, 1:] *= np.where(rng.random((40, 15)) < 0.5, -1, 1)
    return np.where(np.abs(blocks) > heads, heads, blocks).reshape(10, 64)


def run_fp8(x, block_sizes=None):
    quantized, scale = FP8QTensor.quantize(torch.from_numpy(x.copy()), block_sizes=block_sizes)
    decoded = quantized.dequantize(scale=scale, block_sizes=block_sizes)
    return {"codes": quantized._quantized_data.view(torch.uint8).numpy(), "scale": scale.numpy()}, decoded.numpy()


def make():
    rng = random_values(20241130)
    file = GoldenFile("modelopt", "NVFP4QTensor and FP8QTensor, quantize and dequantize, of "
                      + versions("nvidia-modelopt", "torch"), COMMAND)
    hard = hard_groups(16, rng)
    zeros = rng.standard_normal((4, 64))
    zeros[1, 16:48] = 0
    zeros[2] = -0.0
    cases = {
        "random": rng.standard_normal((24, 96)),
        "spread": rng.standard_normal((24, 64)) * np.exp(rng.uniform(-4, 4, (24, 1))),
        "ties": nvfp4_ties(rng),
        "hard": hard[:-2].reshape(-1, 32),
        "outlier": hard.reshape(-1, 32),
        "zero_blocks": zeros,
        "all_equal": np.full((2, 32), 0.3),
        "one_block": rng.standard_normal((1, 16)),
        "large": rng.uniform(-1, 1, (1, 64)) * 1.7e38,
        "small": rng.uniform(-1, 1, (1, 64)) * 8e-36,
        "subnormal": rng.uniform(-1, 1, (1, 64)) * 1e-38,
        "vanishing": np.where(np.arange(64) % 16 == 3, 5.0, -1e-45)[None, :],
    }
    for name, x in cases.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        planes, decoded = run_nvfp4(x)
        file.add(f"nvfp4_{name}", "nvfp4:dialect=modelopt", x.shape, x, planes=planes, decoded=decoded, digest=True)
    for i in range(24):  # tensors of one block, whose scale is 448 or beside it
        x = rng.uniform(-1, 1, (1, 16)).astype(np.float32) * np.float32(0.05 * (i + 1))
        planes, decoded = run_nvfp4(x)
        file.add(f"nvfp4_global_{i:02}", "nvfp4:dialect=modelopt", x.shape, x, planes=planes, decoded=decoded)
    fp8 = {
        "random": (rng.standard_normal((9, 33)) * np.exp(rng.uniform(-3, 3, (9, 1))), None),
        "ties": (np.concatenate([neighbours((np.arange(16, 32) + 0.5) * s / 16) for s in (0.01, 0.5, 3.25)])[None], None),
        "edges": (rng.standard_normal((130, 132)), 128),
        "largest": (np.array([[FLT_MAX / 2, -FLT_MAX / 2, 1, 1e36]]), None),
        "subnormal": (np.array([[1e-38, -3e-39, 1e-45]]), None),
    }
    for name, (x, block) in fp8.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        planes, decoded = run_fp8(x, {-1: block, -2: block} if block else None)
        spec = "fp8_e4m3:dialect=modelopt" + (f",block={block}x{block}" if block else "")
        file.add(f"fp8_{name}", spec, x.shape, x, planes=planes, decoded=decoded, digest=True)
    file.write()


if __name__ == "__main__":
    make()
