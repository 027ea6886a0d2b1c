"""Makes the golden file of bits with numpy, and of its dialect with sentence-transformers (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-bits.txt
    venv/bin/python tests/golden/make_bits.py
"""

import numpy as np
from sentence_transformers.util.quantization import quantize_embeddings

from hard_values import hard_groups, neighbours
from make_golden import FLT_MAX, FLT_MIN, GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_bits.py"


def make_bits():
    rng = random_values(20240801)
    file = GoldenFile("bits", "packbits(x > 0, axis=-1) of numpy, and quantize_embeddings of "
                      + versions("sentence-transformers", "numpy"), COMMAND)
    embeddings = rng.standard_normal((4, 768))
    edges = neighbours([0, 1, -1, FLT_MIN, -FLT_MIN, 1e-45, -1e-45, FLT_MAX / 2, -FLT_MAX / 2, -0.0])
    shared = {
        "random": embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True),
        "hard": hard_groups(64, rng),
        "edges": edges[None],
        "zeros": np.array([[0.0, -0.0, 1, -1] * 5]),
        "one": np.array([[1e-45], [-1e-45], [0], [-0.0]]),
        "batches": rng.standard_normal((3, 5, 13)),
        **{f"odd{length}": rng.standard_normal((2, length)) for length in (1, 7, 8, 9, 63, 65, 4097)},
    }
    for name, values in shared.items():
        x = values.astype(np.float32)
        key = file.share(name, x)
        file.add(f"{name}_numpy", "bits", x.shape, shared=key, planes={"codes": np.packbits(x > 0, axis=-1)})
        assert (quantize_embeddings(x, "ubinary") == np.packbits(x > 0, axis=-1)).all()
        file.add(f"{name}_sentence_transformers", "bits:dialect=sentence_transformers", x.shape, shared=key,
                 planes={"codes": quantize_embeddings(x, "binary")})
    file.write()


if __name__ == "__main__":
    make_bits()
