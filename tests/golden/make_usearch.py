"""Makes the golden file of the dialect usearch of int8 and bits (see make_golden.py).

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements-usearch.txt
    venv/bin/python tests/golden/make_usearch.py
"""

import numpy as np
from usearch.index import Index

from hard_values import neighbours
from make_golden import FLT_MAX, GoldenFile, random_values, versions

COMMAND = "python tests/golden/make_usearch.py"


def stored(x, kind):
    """Returns what an index of `kind` keeps of x (vectors, elements)."""
    index = Index(ndim=x.shape[1], metric="cos", dtype=kind)
    index.add(np.arange(len(x)), x)
    return index


def bytes_of_i8(x):
    return np.asarray(stored(x, "i8").get(np.arange(len(x)), "i8"))


def bytes_of_b1(x):
    """As an index of f32 gives its vectors; of whole bytes, for what is left of one it leaves unset."""
    codes = np.asarray(stored(x, "f32").get(np.arange(len(x)), "b1"))
    return codes.view(np.uint8)[:, : x.shape[1] // 8]


def edges():
    """Vectors of two elements, of which one is on or beside a whole number of steps."""
    share = np.arange(-126, 127) / 127
    rest = np.sqrt(1 - share * share)
    firsts = [neighbours(share * size) for size in (1.0, 3.7, 1e-3, 1e20, 1e-20)]
    seconds = [np.repeat(rest * size, len(first) // len(rest)) for first, size in
               zip(firsts, (1.0, 3.7, 1e-3, 1e20, 1e-20))]
    return np.stack([np.concatenate(firsts), np.concatenate(seconds)], axis=1)


def make():
    rng = random_values(20241129)
    file = GoldenFile("usearch", "Index.add and Index.get, dtype i8 and b1, of " + versions("usearch", "numpy"),
                      COMMAND)
    cases = {
        "random": rng.standard_normal((16, 96)),
        "unit": (lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True))(rng.standard_normal((6, 768))),
        "edges": edges(),
        "odd": rng.standard_normal((7, 13)),
        "long": rng.standard_normal((2, 4096)),
        "three": rng.standard_normal((30, 3)),
        "one": np.array([[2.5], [-1e-30], [FLT_MAX]]),
        "special": np.array([[0, 0, 0, 0], [-0.0, 5, 0, 0], [1e-45, 1e-45, 0, 0],
                             [FLT_MAX, FLT_MAX, -FLT_MAX, 0], [3, -4, 0, 0]]),
    }
    for name, x in cases.items():
        x = np.ascontiguousarray(x.astype(np.float32))
        codes = bytes_of_i8(x)
        file.add(f"i8_{name}", "int8:dialect=usearch", x.shape, x, planes={"codes": codes},
                 decoded=codes.astype(np.float32) / np.float32(127), digest=True)
    for name, columns in (("bits8", 8), ("bits64", 64), ("bits768", 768)):
        x = rng.standard_normal((5, columns)).astype(np.float32)
        x[0, :4] = 0, -0.0, 1e-45, -1e-45
        file.add(f"b1_{name}", "bits:dialect=usearch", x.shape, x, planes={"codes": bytes_of_b1(x)})
    file.write()


if __name__ == "__main__":
    make()
