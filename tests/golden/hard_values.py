"""Values that no random numbers would bring, for the make_PROJECT.py of this folder."""

import numpy as np

from make_golden import FLT_MIN


def neighbours(x):
    """Each value with the f32 just below and above it."""
    x = np.asarray(x, np.float32)
    return np.stack([x, np.nextafter(x, np.float32(-np.inf)), np.nextafter(x, np.float32(np.inf))],
                    axis=-1).reshape(-1)


def hard_groups(size, rng):
    """Groups of `size` values, one a row, that no random numbers would bring."""
    powers = neighbours(2.0 ** np.arange(-8, 9))
    rows = [
        np.zeros(size),
        np.full(size, -0.0),
        np.where(rng.random(size) < 0.5, 0.0, -0.0),
        np.full(size, 0.1),
        np.full(size, -3.7),
        np.full(size, 1e-45),
        np.full(size, -1e-45),
        1e-45 * rng.integers(-9, 10, size),
        1e-40 * rng.standard_normal(size),
        FLT_MIN * rng.standard_normal(size),
        1e-36 * rng.standard_normal(size),
        np.resize(powers, size),
        -np.resize(powers[::-1], size),
        np.resize(powers * np.where(np.arange(powers.size) % 2, 1, -1), size),
        1 + np.arange(size) * 2.0**-23,
        np.abs(rng.standard_normal(size)) + 1,
        -np.abs(rng.standard_normal(size)) - 1,
        np.where(np.arange(size) == size // 2, 1e6, rng.standard_normal(size)),
        np.where(np.arange(size) == size - 1, -1e30, rng.standard_normal(size)),
        1e25 * rng.standard_normal(size),
    ]
    return np.array(rows).astype(np.float32)
