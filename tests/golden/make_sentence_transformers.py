"""Makes the golden file of int8's and uint8's dialect sentence_transformers (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-bits.txt
    venv/bin/python tests/golden/make_sentence_transformers.py
"""

import numpy as np
from sentence_transformers.util.quantization import _dequantize_embeddings, quantize_embeddings

from hard_values import neighbours
from make_golden import FLT_MAX, FLT_MIN, GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_sentence_transformers.py"


def ties(rng):
    """Columns with values on and beside whole steps, for the steps that the package makes."""
    ends = np.sort(rng.standard_normal((2, 24)), axis=0).astype(np.float32)
    steps = (ends[1] - ends[0]) / np.float32(255)
    near = [neighbours(ends[0] + k * steps) for k in rng.integers(0, 256, 12)]
    return np.concatenate([ends, *(n.reshape(24, -1).T for n in near)])


def make():
    rng = random_values(20241128)
    file = GoldenFile("sentence_transformers", "quantize_embeddings and _dequantize_embeddings of "
                      + versions("sentence-transformers", "numpy"), COMMAND)
    embeddings = rng.standard_normal((40, 96))
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    constant = rng.standard_normal((6, 9))
    constant[:, 3], constant[:, 4] = 0.25, 0
    far = rng.uniform(-1, 1, (8, 6)) * np.array([FLT_MAX / 2, 1e30, 1, 1e-30, FLT_MIN, 1e-43])
    cases = {
        "random": (embeddings, None),
        "ties": (ties(rng), None),
        "constant": (constant, None),  # steps of 1
        "far": (far, None),
        "odd": (rng.standard_normal((3, 7)), None),
        "long": (rng.standard_normal((5, 1000)), None),
        "two": (np.array([[0.5, -1], [0.25, 3]]), None),
        # A calibration set's: what lies outside is clipped.
        "given": (2 * embeddings, (-0.125, 0.0625)),
    }
    for name, (x, ends) in cases.items():
        x = np.ascontiguousarray(x.astype(np.float32)) + np.float32(0)  # without -0
        key = file.share(f"inputs/{name}", x)
        ranges = np.vstack((x.min(axis=0), x.max(axis=0)))
        if ends is not None:
            ranges = np.repeat(np.array(ends, np.float32)[:, None], x.shape[1], axis=1)
        steps = (ranges[1] - ranges[0]) / 255
        for precision in ("int8", "uint8"):
            codes = quantize_embeddings(x, precision, ranges=None if ends is None else ranges)
            planes = {"codes": codes, "scale": np.where(steps == 0, 1, steps).astype(np.float32), "start": ranges[0]}
            spec = f"{precision}:dialect=sentence_transformers"
            spec += "" if ends is None else f",range={ends[0]}..{ends[1]}"
            file.add(f"{precision}_{name}", spec, x.shape, shared=key, planes=planes,
                     decoded=_dequantize_embeddings(codes, precision, ranges), digest=True)
    file.write()


if __name__ == "__main__":
    make()
