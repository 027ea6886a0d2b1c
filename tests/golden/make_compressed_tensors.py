"""Makes the golden files of nvfp4, int4, int_words and fp8_e4m3 with compressed-tensors (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-compressed_tensors.txt
    venv/bin/python tests/golden/make_compressed_tensors.py [nvfp4 int4 int_words fp8_e4m3]

All on the CPU and from f32: from f16 or bf16 the package computes scales in that type.
"""

import sys

import ml_dtypes
import numpy as np
import torch
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.quant_scheme import FP8_BLOCK, NVFP4A16
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from hard_values import hard_groups, neighbours
from make_golden import FLT_MAX, GoldenFile, bit_stream, random_values, round_scale, versions

COMMAND = "python tests/golden/make_compressed_tensors.py"
PACKAGES = versions("compressed-tensors", "torch")


# --- nvfp4 ----------------------------------------------------------------------------------------


def run_nvfp4(x):
    """Returns the planes of x (rows, columns) and what they decode to."""
    args = NVFP4A16["weights"]
    weight = torch.from_numpy(x)
    global_scale = generate_gparam(weight.min(), weight.max())
    blocks = weight.unflatten(-1, (-1, args.group_size))
    scale, _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args, global_scale=global_scale)
    codes = quantize(weight, scale, None, args, global_scale=global_scale)
    decoded = dequantize(codes, scale, None, args, global_scale=global_scale)
    planes = {
        "codes": pack_fp4_to_uint8(codes).numpy(),
        "scale": scale.to(torch.float8_e4m3fn).view(torch.uint8).numpy(),
        "global_scale": global_scale.numpy(),
    }
    return planes, decoded.numpy()


def nvfp4_ties(rng):
    """Values on and beside the ties of E2M1, for the divisors that the package itself computes."""
    largest = np.float32(4.0)
    heads = (largest * 2.0 ** -rng.uniform(0, 12, 40)).astype(np.float32)
    heads[0] = largest
    blocks = np.zeros((40, 16), np.float32)
    blocks[:, 0] = heads
    planes, _ = run_nvfp4(blocks)
    scale = planes["scale"].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    step = scale / planes["global_scale"]
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    beside = neighbours((ties * step).ravel()).reshape(40, 21)
    blocks[:, 1:] = np.array([rng.permutation(row)[:15] for row in beside])
    blocks[:, 1:] *= np.where(rng.random((40, 15)) < 0.5, -1, 1)
    return np.where(np.abs(blocks) > heads[:, None], heads[:, None], blocks).reshape(10, 64)


def nvfp4_scale_ties(rng):
    """Blocks whose scale lies on or beside a tie of E4M3, where the order of the operations counts."""
    planes, _ = run_nvfp4(np.full((1, 16), 2.9, np.float32))
    g = planes["global_scale"][0]
    codes = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    heads = neighbours((codes[1:] + codes[:-1]) / 2 * 6 / g)
    e4m3 = lambda s: s.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    differ = e4m3(g * (heads / np.float32(6))) != e4m3(g * heads / np.float32(6))
    heads = np.concatenate([[np.float32(2.9)], heads[differ][:47], rng.choice(heads, 48)])
    blocks = heads[:96, None] * rng.uniform(-1, 1, (heads[:96].size, 16))
    blocks[:, 3] = heads[:96]
    return blocks[: blocks.shape[0] // 4 * 4].reshape(-1, 64)


def make_nvfp4():
    rng = random_values(20240601)
    file = GoldenFile("nvfp4", "generate_gparam, calculate_qparams, quantize, pack_fp4_to_uint8 and "
                      "dequantize, NVFP4A16, of " + PACKAGES, COMMAND)
    hard = hard_groups(16, rng)
    spread = rng.standard_normal((24, 64)) * np.exp(rng.uniform(-4, 4, (24, 1)))
    zeros = rng.standard_normal((4, 64))
    zeros[1, 16:48] = 0
    zeros[2] = -0.0
    cases = {
        "random": rng.standard_normal((24, 96)),
        "spread": spread,
        "ties": nvfp4_ties(rng),
        "scale_ties": nvfp4_scale_ties(rng),
        "hard": hard[:-2].reshape(-1, 32),
        "outlier": hard.reshape(-1, 32),  # all blocks but one are nothing beside it
        "zero_blocks": zeros,
        "all_zero": np.zeros((2, 32)),
        "all_minus_zero": np.full((2, 32), -0.0),
        "all_equal": np.full((2, 32), 0.3),
        "one_block": rng.standard_normal((1, 16)),
        # The reciprocal of the largest value is subnormal.
        "largest": np.concatenate([[FLT_MAX, -FLT_MAX], rng.uniform(-1, 1, 62) * FLT_MAX])[None, :],
        "large": rng.uniform(-1, 1, (1, 64)) * 1.7e38,
        # Just where the global scale is infinite and so becomes 1, and subnormal tensors.
        "small": rng.uniform(-1, 1, (1, 64)) * 8e-36,
        "smaller": rng.uniform(-1, 1, (1, 64)) * 7.8e-36,
        "subnormal": rng.uniform(-1, 1, (1, 64)) * 1e-39,
        "vanishing": np.where(np.arange(64) % 16 == 3, 5.0, -1e-45)[None, :],
    }
    cases["small"][0, 0] = 8e-36
    cases["smaller"][0, 0] = 7.8e-36
    for name, x in cases.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        planes, decoded = run_nvfp4(x)
        if not np.isfinite(decoded).all():
            assert name == "largest"  # 6 * (448 / global scale) overflows
            decoded = None
        file.add(name, "nvfp4", x.shape, x, planes=planes, decoded=decoded, digest=True)
    # The reciprocal of the largest value is rounded before it is multiplied: some differ by an ulp.
    for i in range(24):
        x = rng.uniform(-1, 1, (1, 16)).astype(np.float32) * np.float32(0.05 * (i + 1))
        planes, decoded = run_nvfp4(x)
        file.add(f"global_{i:02}", "nvfp4", x.shape, x, planes=planes, decoded=decoded, digest=True)
    file.write()


# --- int4 -----------------------------------------------------------------------------------------


def nibble_stream(codes, bits):
    return bit_stream(codes.numpy() & 15, bits)


def run_int(x, group=None, axis=None, asymmetric=False, bits=4, pack=nibble_stream):
    """Returns the planes of x and what they decode to; per tensor without group and axis."""
    strategy = {"group_size": group} if group else {"strategy": "tensor" if axis is None else "channel"}
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=not asymmetric, **strategy)
    weight = torch.from_numpy(x)
    if group:
        groups = weight.unflatten(-1, (-1, group))
        low, high = groups.amin(-1), groups.amax(-1)
    elif axis == 0:
        low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    else:
        low, high = weight.min(), weight.max()
    scale, zero = calculate_qparams(low, high, args)
    codes = quantize(weight, scale, zero, args, dtype=torch.int8)
    decoded = dequantize(codes, scale, zero, args)
    scale = scale.numpy() if group else scale.numpy().ravel()
    planes = {"codes": pack(codes, bits),
              "scale": scale if group or axis == 0 else scale.reshape(())}
    if asymmetric:
        assert zero.dtype == torch.int8
        planes["zero_point"] = zero.numpy().reshape(planes["scale"].shape)
    return planes, decoded.numpy()


def int4_ties(rng):
    """Groups of 32 with values on and beside (k + 1/2) * scale, for scales that the package gives."""
    blocks = np.zeros((48, 32), np.float32)
    blocks[:, 0] = rng.uniform(0.5, 4, 48) * np.where(np.arange(48) % 2, 1, -1)
    blocks[::3, 1] = -blocks[::3, 0] * rng.uniform(0, 1, 16)
    for i, block in enumerate(blocks):
        planes, _ = run_int(block[None, :], group=32, asymmetric=i % 3 == 0)
        scale = planes["scale"].ravel()[0]
        near = neighbours((np.arange(-8, 8) + np.float32(0.5)) * scale)
        near = near[(near <= block.max()) & (near >= block.min())]
        if i % 3:  # half of them beyond 7.5 steps, which the largest value is
            near = near[np.abs(near) <= abs(block[0])]
        block[2:] = rng.choice(near, 30)
    # Zero points halfway: 2.5 steps of 1 below 0 and 12.5 above, and so on.
    halves = np.arange(15) + 0.5
    ends = np.stack([-halves, 15 - halves], axis=1).repeat(16, axis=0).reshape(15, 32)
    return np.concatenate([blocks, ends * rng.choice([1, 0.5], (15, 1))])


def make_int4():
    rng = random_values(20240602)
    file = GoldenFile("int4", "calculate_qparams, quantize and dequantize, 4-bit integers, of " +
                      PACKAGES, COMMAND)
    hard = hard_groups(32, rng)
    extreme = rng.uniform(-1, 1, (2, 32)) * FLT_MAX / 2
    extreme[0, :2] = FLT_MAX / 2, -FLT_MAX / 2
    inputs = {
        "random": rng.standard_normal((16, 96)) * np.exp(rng.uniform(-3, 3, (16, 1))),
        "ties": int4_ties(rng),
        "hard": hard,
        "extreme": extreme,
    }
    for label, x in inputs.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        key = file.share(f"inputs/{label}", x)
        for mode in ("symmetric", "asymmetric"):
            for name, text, how in [("group32", ",group=32", {"group": 32}), ("tensor", "", {}),
                                    ("axis0", ",axis=0", {"axis": 0})]:
                planes, decoded = run_int(x, asymmetric=mode == "asymmetric", **how)
                spec = "int4:dialect=compressed_tensors" + text
                spec += ",mode=asymmetric" if mode == "asymmetric" else ""
                file.add(f"{mode}_{name}_{label}", spec, x.shape, shared=key, planes=planes,
                         decoded=decoded, digest=True)
    odd = {"odd": rng.standard_normal((5, 7)), "one": np.array([[-2.5]]), "zero": np.zeros((3, 3)),
           "subnormal": np.array([[1e-45, 3e-45, -4e-45]]), "tiny": np.array([[1e-45, -1e-45, 0]])}
    for label, x in odd.items():
        x = x.astype(np.float32)
        for mode in ("symmetric", "asymmetric"):
            planes, decoded = run_int(x, asymmetric=mode == "asymmetric")
            spec = "int4:dialect=compressed_tensors" + (",mode=asymmetric" if mode[0] == "a" else "")
            file.add(f"{mode}_tensor_{label}", spec, x.shape, x, planes=planes, decoded=decoded)
    file.write()


# --- Integers in words ----------------------------------------------------------------------------


def packed(codes, bits):
    return pack_to_int32(codes, bits).numpy()


def make_int_words():
    rng = random_values(20241127)
    file = GoldenFile("int_words", "calculate_qparams, quantize, pack_to_int32 and dequantize, integers of "
                      "2 to 8 bits, of " + PACKAGES, COMMAND)
    ragged = rng.standard_normal((6, 45))
    ragged[2] = 0
    inputs = {
        "random": (rng.standard_normal((12, 96)) * np.exp(rng.uniform(-3, 3, (12, 1))), {"group": 32}),
        "ties": (np.arange(-40, 40).reshape(10, 8).repeat(4, axis=1) / 2, {"group": 32}),
        "ragged": (ragged, {"axis": 0}),  # words that are not full
        "long": (rng.standard_normal((3, 4099)), {"axis": 0}),  # of more than a tile
        "column": (rng.standard_normal((9, 1)), {}),
        "zero": (np.zeros((3, 17)), {}),
        "subnormal": (np.array([[1e-45, 3e-45, -4e-45]]), {}),
    }
    for label, (x, how) in inputs.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        key = file.share(f"inputs/{label}", x)
        text = "".join(f",{name}={value}" for name, value in how.items())
        for bits in (2, 3, 4, 5, 6, 8):
            # Of these widths words are the dialect's default.
            layout = "" if bits in (2, 3, 5, 6) else ",layout=words"
            for mode in ("full", "asymmetric"):
                planes, decoded = run_int(x, asymmetric=mode == "asymmetric", bits=bits, pack=packed, **how)
                file.add(f"int{bits}_{mode}_{label}", f"int{bits}:dialect=compressed_tensors,mode={mode}{text}{layout}",
                         x.shape, shared=key, planes=planes, decoded=decoded, digest=True)
    file.write()


# --- fp8_e4m3 in blocks of 128 x 128 ---------------------------------------------------------------


def block_amax(x):
    rows, cols = (-(-n // 128) for n in x.shape)
    padded = np.zeros((rows * 128, cols * 128), np.float32)
    padded[: x.shape[0], : x.shape[1]] = x
    return np.abs(padded).reshape(rows, 128, cols, 128).max((1, 3))


def run_fp8(x):
    """Returns the planes of x and what they decode to, by compressed-tensors."""
    args = FP8_BLOCK["weights"]
    amax = torch.from_numpy(block_amax(x))
    scale, zero = calculate_qparams(-amax, amax, args)
    codes = quantize(torch.from_numpy(x), scale, None, args, dtype=torch.float8_e4m3fn)
    decoded = dequantize(codes.float(), scale, None, args)
    return {"codes": codes.view(torch.uint8).numpy(), "scale": scale.numpy()}, decoded.numpy()


def run_fp8_plain(x):
    """The same by torch's cast, with scales by quantd's rule for all schemes."""
    scale = round_scale(block_amax(x).astype(np.float64) / 448)
    factors = torch.from_numpy(np.kron(scale, np.ones((128, 128), np.float32)))
    factors = factors[: x.shape[0], : x.shape[1]]
    scaled = torch.from_numpy(x) / factors
    codes = scaled.clamp(-448, 448).to(torch.float8_e4m3fn)
    decoded = codes.float() * factors
    return {"codes": codes.view(torch.uint8).numpy(), "scale": scale}, decoded.numpy()


def fp8_ties(rng):
    """A block with values on and beside the ties of E4M3, for the scale that its largest gives."""
    x = np.zeros((8, 120), np.float32)
    x[0, 0] = 3.3
    scale = run_fp8(x)[0]["scale"][0, 0]
    codes = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    near = neighbours((codes[1:] + codes[:-1]) / 2 * scale)
    x.ravel()[1 : near.size + 1] = near
    rest = x.ravel()[near.size + 1 :]
    rest[:] = rng.choice(neighbours(codes * scale), rest.size)
    x.ravel()[1:] *= np.where(rng.random(x.size - 1) < 0.5, -1, 1)
    return x


def make_fp8():
    rng = random_values(20240603)
    file = GoldenFile("fp8_e4m3", "calculate_qparams, quantize and dequantize, FP8_BLOCK, of " +
                      PACKAGES + "; without the dialect the cast to float8_e4m3fn of torch, with "
                      "scales by the rule in make_golden.py, round_scale()", COMMAND)
    hard = hard_groups(128, rng).reshape(1, -1)  # a block each, and then one of a single column
    inputs = {
        "edges": rng.standard_normal((130, 132)) * np.exp(rng.uniform(-3, 3, (130, 1))),
        "hard": np.concatenate([hard, [[7.0]]], axis=1),
        "tall": rng.standard_normal((300, 2)),
        "ties": fp8_ties(rng),
        "one": np.array([[-2.5]]),
        "zero": np.zeros((2, 3)),
        "largest": np.array([[FLT_MAX, -FLT_MAX, 1.0, 1e36]]),
    }
    for label, x in inputs.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        key = file.share(f"inputs/{label}", x)
        for name, text, run in [("compressed_tensors", ",dialect=compressed_tensors", run_fp8),
                                ("plain", "", run_fp8_plain)]:
            planes, decoded = run(x)
            file.add(f"{name}_{label}", "fp8_e4m3:block=128x128" + text, x.shape, shared=key,
                     planes=planes, decoded=decoded, digest=True)
    file.write()


FAMILIES = {"nvfp4": make_nvfp4, "int4": make_int4, "int_words": make_int_words, "fp8_e4m3": make_fp8}

if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        FAMILIES[family]()
