"""Makes the golden file of the OCP MX formats with Microsoft's microxcaling, and gfloat for what
that does not show, the codes (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-mx.txt
    git clone https://github.com/microsoft/microxcaling
    PYTHONPATH=microxcaling venv/bin/python tests/golden/make_mx.py
"""

import gfloat
import numpy as np
import torch
from gfloat import formats
from gfloat.block import compute_scale_amax, decode_block, encode_block
from mx.mx_ops import _quantize_mx

from hard_values import hard_groups, neighbours
from make_golden import GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_mx.py"
MICROXCALING = "7bc41952de394f5cc5e782baf132e7c7542eb4e4"
FORMATS = {"mxfp8_e4m3": ("fp8_e4m3", formats.format_info_mxfp8_e4m3),
           "mxfp8_e5m2": ("fp8_e5m2", formats.format_info_mxfp8_e5m2),
           "mxfp6_e2m3": ("fp6_e2m3", formats.format_info_mxfp6_e2m3),
           "mxfp6_e3m2": ("fp6_e3m2", formats.format_info_mxfp6_e3m2),
           "mxfp4": ("fp4_e2m1", formats.format_info_mxfp4_e2m1),
           "mxint8": ("int8", formats.format_info_mxint8)}


def pack(codes, bits):
    """Codes [rows, n] as bytes [rows, n * bits / 8], the first in the lowest bits."""
    stream = codes[..., None] >> np.arange(bits) & 1
    return np.packbits(stream.reshape(codes.shape[0], -1).astype(np.uint8), axis=-1, bitorder="little")


def run_peers(x, element, block_format):
    """Codes, scales and values of the blocks of 32 of the rows of x.

    Those of gfloat, whose values are the ones that microxcaling gives in f64, where its logarithms
    are exact enough, but for the signs of zeros. gfloat also makes -2 of int8, which is -127 / 64 in
    microxcaling, and here."""
    wanted = _quantize_mx(torch.from_numpy(x.astype(np.float64)), 8, element, axes=[-1], block_size=32,
                          round="even").numpy().reshape(-1, 32)
    blocks, values = x.reshape(-1, 32).astype(np.float64), np.zeros_like(wanted)
    codes, scales = np.zeros(blocks.shape, np.int64), np.zeros(len(blocks), np.int64)
    for i, block in enumerate(blocks):
        scale = compute_scale_amax(block_format.etype.emax, block)
        scaled = block / scale
        if element == "int8":
            scaled = np.clip(scaled, -127 / 64, 127 / 64)
        encoded = list(encode_block(block_format, scale, scaled))
        values[i] = list(decode_block(block_format, encoded))
        assert (values[i] == wanted[i]).all()
        scales[i], codes[i] = encoded[0], encoded[1:]
    rows = x.reshape(-1, x.shape[-1])
    packed = pack(codes.reshape(rows.shape), block_format.element_bits)
    return (packed.reshape(x.shape[:-1] + (-1,)),
            scales.astype(np.uint8).reshape(x.shape[:-1] + (-1,)), values.reshape(x.shape))


def tie_blocks(block_format, rng):
    """Blocks with the middles between values of the element, and their neighbours, at some scales;
    and values beyond the largest one."""
    values = sorted({gfloat.decode_float(block_format.etype, code).fval
                     for code in range(2**block_format.element_bits)})
    values = np.array([v for v in values if np.isfinite(v)])
    middles = np.unique(np.concatenate([(values[1:] + values[:-1]) / 2, [values[1]]]))
    top = 2.0**block_format.etype.emax
    near = neighbours(np.concatenate([middles, [top * k for k in (1.75, 1.8125, 1.875, 1.9375, 1.99)]]))
    near = near[np.abs(near) < 2 * top]
    blocks = np.resize(rng.permutation(near), (24, 31))
    blocks = np.concatenate([np.full((24, 1), top), blocks], axis=1)
    return (blocks * 2.0 ** rng.integers(-40, 40, (24, 1))).astype(np.float32)


def make_mx():
    rng = random_values(20240701)
    file = GoldenFile("mx", f"_quantize_mx of microxcaling {MICROXCALING[:12]}, and codes of " +
                      versions("gfloat", "torch"), COMMAND)
    shared = {
        "random": rng.standard_normal((6, 96)) * np.exp(rng.uniform(-3, 3, (6, 1))),
        "wide": rng.standard_normal((8, 32)) * 10.0 ** np.linspace(-42, 38, 8)[:, None],
        "hard": hard_groups(32, rng),
        "rank3": rng.uniform(-1, 1, (2, 2, 64)),
    }
    for label, x in shared.items():
        shared[label] = x.astype(np.float32)
        file.share(f"inputs/{label}", shared[label])
    for scheme, (element, block_format) in FORMATS.items():
        for label, x in {**shared, "ties": tie_blocks(block_format, rng)}.items():
            codes, scales, values = run_peers(x, element, block_format)
            given = {"values": x} if label == "ties" else {"shared": f"inputs/{label}"}
            file.add(f"{scheme}_{label}", scheme, x.shape, **given, decoded=values.astype(np.float32),
                     planes={"codes": codes, "scale": scales}, digest=True)
    file.write()


if __name__ == "__main__":
    make_mx()
