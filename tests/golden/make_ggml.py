"""Makes the golden files of ggml's formats with ggml's own quantizers (see make_golden.py, which has
q8_0).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_ggml.py [q4_0 q4_k ..]
"""

import ctypes
import pathlib
import sys

import libggml
import numpy as np

from hard_values import hard_groups, neighbours
from make_golden import GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_ggml.py"
FORMATS = {  # GGML_TYPE_, elements of a block, its bytes, name in function names
    "q4_0": (2, 32, 18, "q4_0"),
    "q4_1": (3, 32, 20, "q4_1"),
    "q5_0": (6, 32, 22, "q5_0"),
    "q5_1": (7, 32, 24, "q5_1"),
    "q2_k": (10, 256, 84, "q2_K"),
    "q3_k": (11, 256, 110, "q3_K"),
    "q4_k": (12, 256, 144, "q4_K"),
    "q5_k": (13, 256, 176, "q5_K"),
    "q6_k": (14, 256, 210, "q6_K"),
    "iq4_nl": (20, 32, 18, "iq4_nl"),
    "iq4_xs": (23, 256, 136, "iq4_xs"),
    "tq1_0": (34, 256, 54, "tq1_0"),
    "tq2_0": (35, 256, 66, "tq2_0"),
    "mxfp4": (39, 32, 17, "mxfp4"),  # a dialect of the row
}
SIMPLE = ["q4_0", "q4_1", "q5_0", "q5_1", "tq1_0", "tq2_0", "mxfp4"]


def run_ggml(scheme, x, importance=None):
    """Returns the codes plane of x (rows, columns) and what ggml decodes it to."""
    number, block, block_bytes, name = FORMATS[scheme]
    base = ctypes.CDLL(str(next(pathlib.Path(libggml.__file__).parent.rglob("libggml-base.so"))))
    base.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer = lambda a: None if a is None else a.ctypes.data_as(ctypes.c_void_p)
    rows, columns = x.shape
    codes = np.zeros((rows, columns // block * block_bytes), np.uint8)
    count = base.ggml_quantize_chunk(number, pointer(x), pointer(codes), ctypes.c_int64(0),
                                     ctypes.c_int64(rows), ctypes.c_int64(columns), pointer(importance))
    assert count == codes.size
    decoded = np.zeros_like(x)
    getattr(base, f"dequantize_row_{name}")(pointer(codes), pointer(decoded), ctypes.c_int64(x.size))
    return {"codes": codes}, decoded


def golden_file(scheme):
    name = "mxfp4_ggml" if scheme == "mxfp4" else scheme
    return GoldenFile(name, f"ggml_quantize_chunk and dequantize_row_{FORMATS[scheme][3]} of ggml (" +
                      versions("libggml-python") + "), which is built without fused multiply-add",
                      COMMAND)


def mxfp4_inputs(rng):
    """Blocks whose largest value lies where log2 rounds up to a whole number, or just not; ties; both
    ends of f32."""
    k = np.arange(-149, 129)
    bits = np.where(k > 127, 0x7F800000, np.float32(2.0 ** np.minimum(k, 127)).view(np.int32))
    below = bits[:, None] - np.array([0, 1, 2, 3, 5, 6, 11, 12, 22, 23, 44, 45, 88])
    below = np.where((below < 0) | (below >= 0x7F800000), 0, below).astype(np.int32).view(np.float32)
    rest = rng.uniform(-1, 1, below.shape + (1,)).astype(np.float32) * below[..., None]
    powers = np.concatenate([below[..., None], rest], axis=-1)  # the others are 0
    middles = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10, 14])
    ties = np.resize(np.concatenate([neighbours(middles), -neighbours(middles), [0, 15.5]]), (4, 50))
    ties = np.concatenate([ties[:, :31], np.full((4, 1), 15.9), ties[:, 19:], ], axis=1)[:, :64]
    return {
        "powers": np.concatenate([powers, np.zeros(powers.shape[:2] + (30,))], axis=-1).reshape(-1, 32)[::3],
        "middles": np.repeat(ties[:, :32], 4, axis=0) * 2.0 ** np.resize([0, -20, 60, -128], (16, 1)),
        "ends": rng.uniform(-1, 1, (4, 64)) * np.array([[3.4028234e38], [1.5e38], [1e-37], [1e-41]]),
    }


def make_simple(scheme):
    """Formats whose scales follow from a block's extremes."""
    rng = random_values(20240605)
    file = golden_file(scheme)
    ternary, block = scheme.startswith("tq"), FORMATS[scheme][1]
    largest = 6e4 if scheme.endswith("1") or ternary else 5e5  # so that the parameters fit f16
    fit = lambda x: np.where(np.abs(x) > largest, np.sign(x) * largest, x)
    steps = np.arange(-64, 65) * 0.25
    ties = np.concatenate([steps, neighbours(steps)])
    ties = np.resize(ties, (32, 31)) * rng.choice([1, 2.0**-20, 0.1], (32, 1))
    far = np.abs(ties).max(axis=1, keepdims=True)
    both = np.where(rng.random((24, 32)) < 0.2, 1, rng.uniform(0, 1, (24, 32)))
    inputs = {
        "random": rng.standard_normal((6, 96)) * np.exp(rng.uniform(-2, 2, (6, 1))),
        "positive": np.abs(rng.standard_normal((2, 64))) + 0.5,
        "negative": -np.abs(rng.standard_normal((2, 64))) - 0.5,
        "levels": rng.integers(-16, 16, (6, 64)) * rng.choice([0.25, 0.1, 3.0], (6, 1)),
        # The extremes are 8 (16, 7.5, ..) steps from 0, the others half and quarter steps.
        "ties": np.concatenate([ties, far], axis=1)[rng.permutation(32)],
        "ties_below": np.concatenate([-far, ties], axis=1),
        # Of +a and -a the first is the one that counts.
        "both_ends": both * rng.choice([-1, 1], (24, 32)),
        "hard": fit(hard_groups(32, rng)),
        # d: f16's normals, subnormals, 0, and subnormals of f32 whose inverse is infinite
        "magnitudes": rng.standard_normal((64, 32)) * 10.0 ** np.linspace(-45, 3, 64)[:, None],
        "zeros": np.where(np.arange(32) % 7 < 3, 0.0, np.where(rng.random((8, 32)) < 0.5, -0.0, 0.0)),
        "zeros_and_positive": np.where(rng.random((8, 32)) < 0.3, -0.0, rng.choice([0.0, 1.5], (8, 32))),
        "largest": fit(rng.standard_normal((4, 64)) * 1e6),
        "uniform": rng.uniform(-1, 1, (3, 64)),
    }
    if scheme == "mxfp4":
        inputs |= mxfp4_inputs(rng)
    if ternary:
        inputs["levels"] = rng.integers(-1, 2, (3, 512)) * rng.choice([0.25, 0.1, 3.0], (3, 1))
    for label, x in inputs.items():
        if block == 256:  # each block of 32 as one of 256, of the same values and others between them
            between = x.reshape(-1, 32, 1) * np.where(np.arange(8) == 0, 1, rng.uniform(-1, 1, 8))
            x = between.reshape(-1, 256) if x.size >= 256 and label != "levels" else np.resize(x, (2, 256))
        x = np.ascontiguousarray(x.astype(np.float32))
        planes, decoded = run_ggml(scheme, x)
        assert np.isfinite(decoded).all(), label
        spec = "mxfp4:dialect=ggml" if scheme == "mxfp4" else scheme
        file.add(label, spec, x.shape, x, planes=planes, decoded=decoded, digest=True)
    if scheme.startswith(("q4", "q5")):
        add_weighted(file, scheme, rng)
    file.write()


def offset_blocks(rng):
    """Runs of 32 far from zero with next to no spread."""
    far = np.array([-1000, -60000, -3e6, 1000, -64, -7e5, -1, -3e4])
    spread = 10.0 ** np.array([-4, -2, -1, -4, -5, -1, -6, -2])
    blocks = [far[:, None] + spread[:, None] * rng.standard_normal((8, 32)),
              far[::-1, None] * rng.uniform(0.5, 1, (8, 1)) + rng.standard_normal((8, 32)) * 1e-3]
    # Beside flat runs at -30000 the offset of the others is stored as 0, and their quotients leave
    # the range of ggml's nearest_int, whose result is then whatever the bits say.
    for near in (-200, -300, -420, -999):
        block = np.full((8, 32), -30000.0)
        block[2:4] = near + 2e-4 * rng.uniform(-1, 1, (2, 32))
        blocks.append(block)
    return np.array(blocks).reshape(-1, 256)


def make_importance(kind, columns, rng):
    if kind == "random":
        return rng.uniform(0, 1, columns) ** 3
    if kind == "wide":
        return 10.0 ** rng.uniform(-8, 8, columns)
    if kind == "zeros":  # single columns, a run of 32, and nearly a whole block
        zeros = rng.uniform(0.1, 1, columns) * (rng.random(columns) < 0.7)
        zeros[32:64] = 0
        return zeros
    if kind == "one":  # all of the weight on a single value of each run
        return np.where(np.arange(columns) % 32 == 17, 1e6, 1e-6)
    return np.ones(columns)


def searched_inputs(scheme, rng):
    """Rows for searches of scales."""
    hard = hard_groups(32, rng)
    hard = np.where(np.abs(hard) > 1e7, np.sign(hard) * 1e6, hard)  # so that the scale fits f16
    runs = hard[rng.permutation(np.resize(np.arange(len(hard)), 40))]
    mixed = rng.standard_normal((6, 256))
    mixed[:, 64:96] = hard[np.arange(6) * 3]
    levels = rng.integers(-8, 8, (4, 256)) * rng.choice([0.25, 0.1, 3.0], (4, 1))
    return {
        "random": rng.standard_normal((2, 512)) * np.exp(rng.uniform(-2, 2, (2, 1))),
        "uniform": rng.uniform(-1, 1, (2, 256)) * np.array([[1e-3], [50]]),
        "positive": np.abs(rng.standard_normal((2, 256))) + 0.5,
        "negative": -np.abs(rng.standard_normal((2, 256))) - 0.5,
        "levels": levels,
        "all_hard": np.repeat(hard[:8], 8, axis=0).reshape(-1, 256),
        "runs": runs.reshape(-1, 256),
        "mixed": mixed,
        "outlier": np.where(np.arange(256) == 77, 1e6, rng.standard_normal((1, 256))),
        "magnitudes": rng.standard_normal((7, 256)) * 10.0 ** np.linspace(-12, 6, 7)[:, None],
        "offset": offset_blocks(rng),
        # Beyond f16: d and dmin are infinite. Where x * x (iq4: times x) overflows f32 as well, NaN
        # gets into the block, with a sign that depends on the processor: no case.
        "overflow": rng.standard_normal((4, 256)) * np.array(
            [[1e8], [1e9], [1e10], [1e11]] if "iq4" in scheme else [[1e8], [1e10], [1e13], [1e16]]),
    }


def add_searched(file, scheme, inputs, kinds, rng):
    """Adds `inputs` with importance of some kinds, or None: all of them for some inputs."""
    for label, x in inputs.items():
        x = x * 0.25 if scheme == "q2_k" else x  # for which 1e6 is too much
        x = np.ascontiguousarray(x.astype(np.float32))
        key = file.share(f"inputs/{label}", x)
        for kind in kinds:
            if label == "overflow" and kind not in (None, "random"):
                continue
            short = label.removeprefix("weighted_")
            if kind in ("equal", "wide", "one") and short not in ("runs", "mixed", "levels", "uneven"):
                continue
            importance = kind and make_importance(kind, x.shape[1], rng).astype(np.float32)
            planes, decoded = run_ggml(scheme, x, importance)
            if kind:
                planes["importance"] = importance
            if not np.isfinite(decoded).all():
                assert label == "overflow"
                decoded = None
            file.add(f"{label}_{kind or 'plain'}", scheme, x.shape, shared=key, planes=planes,
                     decoded=decoded, digest=True)


def add_weighted(file, scheme, rng):
    """Adds cases with importance of formats whose scales are searched for with that alone."""
    inputs = {f"weighted_{label}": np.clip(x, -4e4, 4e4)  # so that the parameters fit f16
              for label, x in searched_inputs(scheme, rng).items() if label != "overflow"}
    # The energy is that of the row, of which some blocks are small; a row of more than a tile.
    inputs["weighted_uneven"] = rng.standard_normal((3, 256)) * np.repeat(10.0 ** np.arange(-6, 2), 32)
    inputs["weighted_long"] = rng.standard_normal((1, 4256))
    inputs["weighted_zeros"] = np.where(rng.random((2, 256)) < 0.5, -0.0, 0.0)
    add_searched(file, scheme, inputs, ["equal", "random", "wide", "zeros", "one"], rng)
    # A row that is no whole blocks is ggml's of zeros and weights of 0 behind it.
    x = rng.standard_normal((3, 80)).astype(np.float32)
    importance = rng.uniform(0, 1, 80).astype(np.float32)
    planes, decoded = run_ggml(scheme, np.pad(x, ((0, 0), (0, 16))), np.pad(importance, (0, 16)))
    planes["importance"] = importance
    file.add("weighted_pad", f"{scheme}:tail=pad", x.shape, x, planes=planes,
             decoded=np.ascontiguousarray(decoded[:, :80]), digest=True)


def make_searched(scheme):
    """Formats whose scales are searched for, with importance and without."""
    rng = random_values(20240605)
    file = golden_file(scheme)
    inputs = searched_inputs(scheme, rng)
    add_searched(file, scheme, inputs, [None, "equal", "random", "wide", "zeros", "one"], rng)
    file.write()


if __name__ == "__main__":
    for wanted in sys.argv[1:] or FORMATS:
        (make_simple if wanted in SIMPLE else make_searched)(wanted)
