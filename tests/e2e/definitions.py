"""What core/scheme/DEFINITIONS.md says of all schemes, written again with numpy and nothing of quantd's.

definition_schemes.py has the schemes; test_definitions.py compares both with the programs.
"""

import itertools
import json
import math
import struct

import numpy as np
import xxhash

F32_MAX = float(np.finfo(np.float32).max)
HALF = {"f16": (5, 10, 15, 0x7BFF), "bf16": (8, 7, 127, 0x7F7F), "e4m3": (4, 3, 7, 0x7E),
        "e5m2": (5, 2, 15, 0x7B), "e2m3": (2, 3, 1, 0x1F), "e3m2": (3, 2, 3, 0x1F), "e2m1": (2, 1, 1, 7)}
STRIPE, TILE = 65536, 4096


# --- Files ---

FILE_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<u2", "BF16": "<u2", "I8": "i1", "I16": "<i2", "I32": "<i4",
              "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "u1",
              "F8_E4M3": "u1", "F8_E5M2": "u1"}


def read_file(path):
    """Returns (tensors by name as (file dtype, array), metadata)."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    body = data[8 + size :]
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(body[begin:end], FILE_TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)
    return tensors, metadata


def packed_tensors(path):
    """Returns the packed tensors: name -> (spec, dtype, shape, planes by name)."""
    tensors, metadata = read_file(path)
    assert metadata["quantd.version"] == "1"
    found = {}
    for key, text in metadata.items():
        if not key.startswith("quantd.") or key == "quantd.version":
            continue
        name, entry = key.removeprefix("quantd."), json.loads(text)
        renamed = entry.get("tensors", {})
        planes = {plane: tensors[renamed.get(plane, name if plane == "codes" else f"{name}.{plane}")]
                  for plane in entry["digests"]}
        for plane, (_, array) in planes.items():
            assert digest(array.tobytes()) == entry["digests"][plane], (name, plane)
        found[name] = (entry["spec"], entry["dtype"], tuple(entry["shape"]), planes)
    return found


def digest(data):
    leaves = b"".join(xxhash.xxh3_128_digest(data[i : i + 4096]) for i in range(0, len(data), 4096))
    return "xxh3_4k:" + xxhash.xxh3_128_hexdigest(leaves)


def parse_spec(text):
    scheme, _, rest = text.partition(":")
    return scheme, dict(item.split("=", 1) for item in rest.split(",") if item)


# --- Types ---

def working(values, dtype):
    """The values in T."""
    if dtype in ("f16", "bf16"):
        return widen(values, dtype, np.float32)
    return values.astype(np.float32 if dtype in ("f32", "int8", "int16", "uint8", "uint16") else np.float64)


def widen(codes, kind, u):
    """What codes of a small float stand for, exactly, in u."""
    exp_bits, man_bits, bias, largest = HALF[kind]
    codes = codes.astype(np.int64)
    magnitude = codes & ((1 << (exp_bits + man_bits)) - 1)
    exponent, fraction = magnitude >> man_bits, magnitude & ((1 << man_bits) - 1)
    value = np.ldexp((fraction + np.where(exponent > 0, 1 << man_bits, 0)).astype(np.float64),
                     (np.maximum(exponent, 1) - bias - man_bits).astype(np.int32))
    value = value.astype(u)
    bits = value.view(np.uint32 if u == np.float32 else np.uint64).astype(np.uint64)
    top, infinity = (23, 0xFF << 23) if u == np.float32 else (52, 0x7FF << 52)
    beyond = np.uint64(infinity) | fraction.astype(np.uint64) << np.uint64(top - man_bits)
    bits = np.where(magnitude > largest, beyond, bits)
    bits |= (codes >> (exp_bits + man_bits)).astype(np.uint64) << np.uint64(31 if u == np.float32 else 63)
    return bits.astype(np.uint32 if u == np.float32 else np.uint64).view(u)


def narrow(x, kind, rounding="half_even", propagate=False, noise=None):
    """The codes of values of T, each rounded once."""
    exp_bits, man_bits, bias, largest = HALF[kind]
    single = x.dtype == np.float32
    bits = x.view(np.uint32 if single else np.uint64)
    negative = bits >> bits.dtype.type(31 if single else 63) != 0
    wide = np.abs(x.astype(np.float64))
    finite = np.isfinite(wide)
    wide = np.where(finite, wide, 0)
    least = 1 - bias - man_bits  # exponent of the least subnormal
    exponent = np.where(wide == 0, least, np.frexp(wide)[1])
    unit = np.maximum(exponent - man_bits - 1, least)
    scaled = np.ldexp(wide, -unit)
    whole = np.floor(scaled)
    rest = scaled - whole
    if rounding == "stochastic":
        digits, lowest, most, stray = (24, -149, 31, 1) if single else (53, -1074, 60, 2**29)
        cut = unit - np.maximum(exponent - digits, lowest)
        rest = np.where(cut > most, np.where(rest > 0, float(stray), 0), np.ldexp(rest, cut))
        cut = np.minimum(cut, most)
        noise = noise.astype(np.float64)
        up = rest > np.where(cut > 32, np.ldexp(noise, cut - 32), np.floor(np.ldexp(noise, cut - 32)))
    else:
        tie = {"half_even": whole % 2 == 1, "half_away": rest >= 0, "half_up": ~negative, "half_down": negative}
        always = {"truncate": rest < 0, "floor": negative, "ceil": ~negative}
        if rounding in tie:
            up = (rest > 0.5) | (rest == 0.5) & tie[rounding]
        else:
            up = (rest > 0) & always[rounding]
    codes = ((unit - least).astype(np.int64) << man_bits) + (whole + up).astype(np.int64)
    has_infinity = kind in ("f16", "bf16", "e5m2")
    overflow = largest + 1 if propagate and has_infinity else largest
    codes = np.where((codes > largest) | ~finite, overflow, codes)
    is_nan = np.isnan(x)
    if is_nan.any():
        fraction = bits & bits.dtype.type((1 << (23 if single else 52)) - 1)
        kept = fraction >> bits.dtype.type((23 if single else 52) - man_bits)
        nan = {"f16": 0x7C00 | np.maximum(kept, 1).astype(np.int64), "bf16": 0x7FC0, "e4m3": 0x7F,
               "e5m2": 0x7E}[kind]
        codes = np.where(is_nan, nan, codes)
    return codes | negative.astype(np.int64) << (exp_bits + man_bits)


def take_outliers(x, values, k):
    """Returns x, in T, with 0 for the outliers of each row, and the planes, of `values` as they were."""
    rows, stored = x.copy().reshape(-1, x.shape[-1] if x.ndim else 1), values.reshape(-1, x.shape[-1] if x.ndim else 1)
    index = np.full((len(rows), k), 0xFFFFFFFF, "<u4")
    kept = np.zeros((len(rows), k), stored.dtype)
    for row, found in enumerate(rows):
        order = np.argsort(-np.abs(found), kind="stable")
        places = np.sort(order[np.isfinite(found[order])][:k])
        index[row, : len(places)], kept[row, : len(places)] = places, stored[row, places]
        found[places] = 0
    shape = x.shape[:-1] + (k,)
    return rows.reshape(x.shape), {"outlier_index": index.reshape(shape), "outlier_value": kept.reshape(shape)}


def restore_outliers(y, planes, dtype, wanted):
    """Puts them into decoded values."""
    index = planes["outlier_index"][1].astype(np.int64)
    rows, index = y.reshape(len(index.reshape(-1, index.shape[-1])), -1), index.reshape(-1, index.shape[-1])
    stored = planes["outlier_value"][1].reshape(index.shape)
    wide = working(stored, dtype).astype(np.float64)
    kept = decoded(lambda u: wide.astype(u), wanted)
    row, entry = np.nonzero(index != 0xFFFFFFFF)
    rows[row, index[row, entry]] = kept[row, entry]
    return rows.reshape(y.shape)


def decoded(decode_in, dtype):
    """What a file of `dtype` has of the values that decode_in(U) gives."""
    wide = decode_in(np.float64)
    if dtype == "f64":
        return wide
    if dtype == "f32":
        values, held = decode_in(np.float32), np.clip(wide, -F32_MAX, F32_MAX).astype(np.float32)
        return np.where(~np.isfinite(values) & np.isfinite(wide), held, values)
    largest = float(widen(np.array([HALF[dtype][3]]), dtype, np.float64)[0])
    wide = np.where(np.isfinite(wide), np.clip(wide, -largest, largest), wide)
    return narrow(wide, dtype, propagate=True).astype("<u2")


# --- Groups ---

def groups_of(shape, spec):
    """Returns (group of each element, of the tensor's shape; shape of the plane)."""
    shape = tuple(shape)
    if "axis" in spec:
        axis = int(spec["axis"]) % len(shape)
        index = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.broadcast_to(index, shape), (shape[axis],)
    if "group" in spec or "block" in spec:
        rows, columns = map(int, spec["block"].split("x")) if "block" in spec else (1, int(spec["group"]))
        plane = list(shape)
        plane[-1] = -(-shape[-1] // columns)
        index = np.arange(shape[-1]) // columns
        if rows > 1:
            plane[-2] = -(-shape[-2] // rows)
            index = np.arange(shape[-2])[:, None] // rows * plane[-1] + index
            whole, per_batch = shape[:-2], plane[-2] * plane[-1]
        else:
            whole, per_batch = shape[:-1], plane[-1]
        batch = np.arange(int(np.prod(whole, dtype=np.int64))).reshape(whole + (1,) * index.ndim)
        return batch * per_batch + index, tuple(plane)
    return np.zeros(shape, np.int64), ()


def flat_groups(num_elems, size):
    return np.arange(num_elems) // size, (-(-num_elems // size),)


# --- Ranges ---

def ranges_of(x, groups, num_groups, spec, atom=1, recurs=None, columns=False, symmetric=None):
    """Returns min and max of each group, in f64. `recurs`: no group lies together."""
    given = spec.get("range", "minmax")
    if isinstance(given, tuple):  # by mse, from outside
        return given[0].copy(), given[1].copy()
    if ".." in given:
        low, high = map(float, given.split(".."))
        return np.full(num_groups, low), np.full(num_groups, high)
    flat, at = x.reshape(-1).astype(np.float64), groups.reshape(-1)
    finite = np.isfinite(flat)
    low, high = np.full(num_groups, np.inf), np.full(num_groups, -np.inf)
    np.minimum.at(low, at[finite], flat[finite])
    np.maximum.at(high, at[finite], flat[finite])
    none = low > high
    low, high = np.where(none, 0, low) + 0.0, np.where(none, 0, high) + 0.0
    if given == "minmax":
        return low, high
    if given == "absmean":
        means = [total / count if count else 0.0
                 for total, count in magnitudes(x.reshape(-1), at, num_groups, atom, recurs, columns, row_of(x, spec))]
        return -np.array(means), np.array(means)
    if given == "entropy":
        for group, values in values_by_group(flat[finite], at[finite], low < high):
            bounds = (low[group], high[group])
            if num_groups == 1 or recurs:
                values = bucket_values(values, bounds, True, num_groups > 1)
            low[group], high[group] = least_divergence(np.abs(values), bounds)
        return low, high
    if given[0] == "p":
        symmetric = spec.get("mode") != "asymmetric" if symmetric is None else symmetric
        for group, values in values_by_group(flat[finite], at[finite], low < high):
            bounds = (low[group], high[group])
            if num_groups == 1 or recurs:
                values = bucket_values(values, bounds, symmetric, num_groups > 1)
            low[group], high[group] = percentile(values, bounds, float(given[1:]), symmetric)
        return low, high
    times = float(given.removesuffix("sigma"))
    stats = moments(x.reshape(-1), at, num_groups, atom, recurs, columns, row_of(x, spec))
    for group, (count, mean, squares) in enumerate(stats):
        if count > 0:
            reach = times * np.sqrt(squares / count)
            low[group], high[group] = max(low[group], mean - reach), min(high[group], mean + reach)
    return low, high


def values_by_group(flat, at, wanted):
    order = np.argsort(at, kind="stable")
    ends = np.cumsum(np.bincount(at, minlength=len(wanted)))
    parts = np.split(flat[order], ends[:-1])
    return [(group, parts[group]) for group in np.flatnonzero(wanted)]


def percentile(values, bounds, percent, symmetric):
    count, (a, b) = len(values), bounds
    if symmetric:
        k = min(math.floor(count * ((100 - percent) / 100) + 1e-6), count - 1)
        r = np.sort(np.abs(values))[count - 1 - k]
        return bounds if k == 0 else (max(a, -r), min(b, r))
    k = min(math.floor(count * ((100 - percent) / 2 / 100) + 1e-6), (count - 1) // 2)
    values = np.sort(values) + 0.0
    return bounds if k == 0 else (values[k], values[count - 1 - k])


def log2(values):
    """By the page's series."""
    v, k = np.frexp(np.asarray(values, np.float64))
    v, k = np.where(v * 2 > 1.4142135623730951, v, v * 2), np.where(v * 2 > 1.4142135623730951, k, k - 1)
    z, u = (v - 1) / (v + 1), 0.0
    for h in range(19, 0, -2):
        u = u * (z * z) + 1 / h
    return np.where(np.asarray(values) == 0, 0.0, k + ((2 * z) * u) * 1.4426950408889634)


def least_divergence(magnitudes, bounds):
    m = max(-bounds[0], bounds[1])
    counts = np.bincount(np.minimum(magnitudes / m * 2048, 2047).astype(np.int64), minlength=2048).astype(np.float64)
    before = [np.append(0, np.cumsum(v)) for v in (counts, counts * log2(counts), (counts > 0).astype(np.float64))]
    values, entropy, filled = before
    n, best = values[2048], (np.inf, 2048)

    def part(c, s, z):
        return np.where(s == 0, 0, c * (log2(s) - log2(z)))

    for w in range(1, 17):
        k = np.arange(127) * w
        s = values[k + w] - values[k]
        p = np.cumsum(part(s, s, filled[k + w] - filled[k]))[-1]
        t = np.arange(128 * w, min(128 * w + 128, 2049))
        o, s, e = n - values[t], values[t] - values[127 * w], counts[t - 1] + n - values[t]
        z = filled[t - 1] - filled[127 * w] + (e > 0)
        d = ((entropy[t - 1] + e * log2(e)) - p) - part(s + o, s, z) + n * (log2(values[t]) - log2(n))
        d[(values[t] == 0) | (s == 0) & (o > 0)] = np.inf
        best = min([best, *zip(d, -t)])
    t = abs(best[1])
    r = m * (t / 2048)
    return max(bounds[0], -r), min(bounds[1], r)


def bucket_values(values, bounds, symmetric, recurs=False):
    """What stands for values that are counted by the upper 16 bits of f32, or 13 and close to the largest."""
    with np.errstate(over="ignore"):
        narrow = np.clip(values, -F32_MAX, F32_MAX).astype(np.float32)
    shift = 19 if recurs else 16
    upper = (narrow.view(np.uint32) & 0x7FFFFFFF) >> shift
    edges = np.append(np.arange(0x7F80 >> shift - 16, dtype=np.uint32) << shift, 0)
    edges = edges.astype(np.uint32).view(np.float32).astype(np.float64)
    edges[-1] = 2.0**128
    small = (upper == 0) | (recurs & (upper.max(initial=0).astype(np.int64) - upper >= 512))
    middle = np.where(small, 0, (edges[upper] + edges[upper + 1]) / 2)
    if symmetric and not recurs:
        return np.minimum(middle, max(-bounds[0], bounds[1]))
    return np.clip(np.copysign(middle, narrow), *bounds)


def sketch_of(values, bounds, dtype):
    """Returns the same of a group that comes again and again, what counts as 0 first."""
    counted = bucket_values(values, (-np.inf, np.inf), False, True) + 0.0
    points, numbers = np.unique(counted, return_counts=True)
    order = np.lexsort((np.abs(points), points < 0))
    return np.clip(points[order], *bounds).astype(dtype), numbers[order].astype(np.float64)


def buckets_of(x, bounds):
    """Returns what values count as, of each bucket once, in order of the 16 bits, and their numbers."""
    finite = x.reshape(-1)[np.isfinite(x.reshape(-1))].astype(np.float64)
    with np.errstate(over="ignore"):
        upper = np.clip(finite, -F32_MAX, F32_MAX).astype(np.float32).view(np.uint32) >> 16
    _, first, numbers = np.unique(upper, return_index=True, return_counts=True)
    return bucket_values(finite[first], bounds, False).astype(x.dtype), numbers.astype(np.float64)


def row_of(x, spec):
    """The elements that stripes have whole multiples of."""
    return x.shape[-1] if "outliers" in spec else 1


def run_cuts(at, units, atom, row=1):
    """Begin and end of each run, of groups that do not recur."""
    cuts = set()
    bounds = stripe_bounds(units, atom, False, row)
    for begin, end in zip(bounds, bounds[1:]):
        cuts.update(tile for tile, _ in tiles_of(begin, end, atom))
    cuts.update(np.flatnonzero(at[1:] != at[:-1]) + 1)
    return list(itertools.pairwise(sorted(cuts | {len(at)})))


def atom_floor(elems, atom):
    """The last end of an atom up to each of `elems`; an atom that does not cross rows is (elements, L)."""
    size, row = atom if isinstance(atom, tuple) else (atom, None)
    begin = 0 if row is None else elems // row * row
    return begin + (elems - begin) // size * size


def cut(begin, end, step, atom):
    """The beginnings of parts of up to `step` elements of [begin, end)."""
    while begin < end:
        yield begin
        begin = atom_floor(begin + step, atom)


def tiles_of(begin, end, atom):
    return itertools.pairwise([*cut(begin, end, TILE, atom), end])


def stripe_bounds(at, atom, recurs, row=1):
    n = len(at)
    step = 1 if row == 1 else row if isinstance(atom, tuple) else math.lcm(atom, row)
    longest = STRIPE // step * step or n
    if recurs:
        return [*range(0, n, longest), n] if row > 1 else [*cut(0, n, STRIPE, atom), n]
    ends = np.flatnonzero(np.append(at[1:] != at[:-1], True)) + 1  # of runs
    ends = ends[(atom_floor(ends, atom) == ends) & (ends % step == 0) | (ends == n)]
    bounds = [0]
    while bounds[-1] < n:
        begin = bounds[-1]
        within = ends[(ends > begin) & (ends <= begin + STRIPE)]
        if n - begin <= STRIPE:
            bounds.append(n)
        elif len(within):
            bounds.append(int(within[-1]))
        else:
            band_end = int(ends[ends > begin][0])
            cuts = range(begin, band_end, longest) if row > 1 else [*cut(begin, band_end, STRIPE, atom)]
            bounds += [*cuts[1:], band_end]
    return bounds


def moments(flat, at, num_groups, atom, recurs, columns, row=1):
    total = [(0, 0.0, 0.0)] * num_groups
    bounds = stripe_bounds(at, atom, recurs, row)
    for begin, end in zip(bounds, bounds[1:]):
        own = {}
        if columns:
            for value, group in zip(flat[begin:end].astype(np.float64), at[begin:end]):
                if np.isfinite(value):
                    count, mean, squares = own.get(group, (0, 0.0, 0.0))
                    count, d = count + 1, value - mean
                    mean = mean + d / count
                    own[group] = (count, mean, squares + d * (value - mean))
        else:
            for tile, tile_end in tiles_of(begin, end, atom):
                ids = at[tile:tile_end]
                cuts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)]
                for a, b in zip(cuts, cuts[1:]):
                    run = run_moments(flat[tile + a : tile + b])
                    own[ids[a]] = merged(own.get(ids[a], (0, 0.0, 0.0)), run)
        for group, stats in own.items():
            total[group] = merged(total[group], stats)
    return total


def magnitudes(flat, at, num_groups, atom, recurs, columns, row=1):
    """(sum, count) of each group."""
    total, finite = np.zeros(num_groups), np.isfinite(flat)
    each = np.where(finite, np.minimum(np.abs(flat.astype(np.float64)), F32_MAX), 0)
    bounds = stripe_bounds(at, atom, recurs, row)
    for begin, end in zip(bounds, bounds[1:]):
        own = np.zeros(num_groups)
        if columns:
            for value, group in zip(each[begin:end], at[begin:end]):
                own[group] += value
        else:
            for tile, tile_end in tiles_of(begin, end, atom):
                ids = at[tile:tile_end]
                cuts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)]
                for a, b in zip(cuts, cuts[1:]):
                    own[ids[a]] += lanes_of(each[tile + a : tile + b])
        total += own
    return zip(total, np.bincount(at[finite], minlength=num_groups))


def lanes_of(values):
    """Sums of the 16 lanes, in the type of the values, folded in f64."""
    lanes = np.zeros(16, values.dtype)
    for i in range(0, len(values), 16):
        part = values[i : i + 16]
        lanes[: len(part)] += part
    lanes = lanes.astype(np.float64)
    for half in (8, 4, 2, 1):
        lanes = lanes[:half] + lanes[half : 2 * half]
    return float(lanes[0])


def run_moments(x):
    single = x.dtype == np.float32
    low, high = (np.float32(1e-15), np.float32(1e17)) if single else (1e-145, 1e150)
    reach = np.abs(x).max()
    if not np.isfinite(x).all() or (reach != 0 and not low <= reach <= high):
        wide, finite = x.astype(np.float64), np.isfinite(x)
        count = int(finite.sum())
        if count == 0:
            return 0, 0.0, 0.0
        mean = lanes_of(np.where(finite, wide, 0)) / count
        d = np.where(finite, wide - mean, 0)
        return count, mean, lanes_of(d * d)
    count, total, energy = len(x), lanes_of(x), lanes_of(x * x)
    mean = total / count
    squares = energy - count * mean * mean
    if squares < 0.5 * energy:
        centre = x.dtype.type(mean)
        d = x - centre
        offset = lanes_of(d)
        total = count * float(centre) + offset
        squares = max(0.0, lanes_of(d * d) - offset * offset / count)
    return count, total / count, squares


def merged(a, b):
    if a[0] == 0 or b[0] == 0:
        return b if a[0] == 0 else a
    d, count = b[1] - a[1], a[0] + b[0]
    return count, a[1] + d * (b[0] / count), a[2] + (b[2] + d * d * (float(a[0]) * b[0] / count))


# --- Scales, rounding ---

def stored_scales(scale, kind):
    """Returns (what the plane holds, its value in f32)."""
    scale = np.asarray(scale, np.float64)
    if kind == "f16":
        codes = narrow(np.where(scale == 0, 1, np.clip(scale, 2.0**-24, 65504)), "f16").astype("<u2")
        return codes, widen(codes, "f16", np.float32)
    if kind == "bf16":
        codes = narrow(np.where(scale == 0, 1, np.clip(scale, 2.0**-126, F32_MAX)), "bf16").astype("<u2")
        return codes, widen(codes, "bf16", np.float32)
    if kind == "dyadic16":
        f, e = np.frexp(np.where(scale == 0, 1, np.clip(scale, 2.0**-113, 32767 * 2.0**113)))
        m = np.rint(f * 2**15)
        m, s = np.where(m == 2**15, 2**14, m).astype("<i2"), np.where(m == 2**15, 14 - e, 15 - e).astype("i1")
        return {"multiplier": m, "shift": s}, dyadic(m, s)
    if kind == "pow2":
        fraction, exponent = np.frexp(np.minimum(scale, 2.0**127))
        power = np.clip(np.where(fraction == 0.5, exponent - 1, exponent), -126, 127)
        values = np.where(scale == 0, 1, np.ldexp(1.0, power)).astype(np.float32)
        return values, values
    values = np.where(scale == 0, 1, np.clip(scale, 2.0**-126, F32_MAX)).astype(np.float32)
    return values, values


def dyadic(multiplier, shift):
    return np.ldexp(multiplier.astype(np.float64), -shift.astype(np.int32)).astype(np.float32)


def rounded(v, rounding, noise=None):
    """`v` rounded to whole numbers."""
    floor, ceil = np.floor(v), np.ceil(v)
    half = v.dtype.type(0.5)
    if rounding == "half_even":
        return np.rint(v)
    if rounding == "half_away":
        return np.where(v < 0, np.where(ceil - v >= half, floor, ceil), np.where(v - floor >= half, ceil, floor))
    if rounding == "half_up":
        return np.where(v - floor >= half, floor + 1, floor)
    if rounding == "half_down":
        return np.where(ceil - v >= half, ceil - 1, ceil)
    if rounding == "stochastic":
        fraction = (noise >> np.uint64(8)).astype(v.dtype) * v.dtype.type(2.0**-24)
        return np.where(fraction < v - floor, floor + 1, floor)
    return {"truncate": np.trunc(v), "floor": floor, "ceil": ceil}[rounding]


def noise_of(name, seed, num_elems):
    """32 bits for each element."""
    u = np.uint64
    low = u(0xFFFFFFFF)
    block = np.arange(-(-num_elems // 4), dtype=np.uint64)
    stream = u(xxhash.xxh3_64_intdigest(name.encode()))
    a, b = block & low, block >> u(32)
    c, d = np.full_like(block, stream & low), np.full_like(block, stream >> u(32))
    k, l = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p, q = u(0xD2511F53) * a, u(0xCD9E8D57) * c
        a, b, c, d = q >> u(32) ^ b ^ u(k), q & low, p >> u(32) ^ d ^ u(l), p & low
        k, l = (k + 0x9E3779B9) & 0xFFFFFFFF, (l + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=1).reshape(-1)[:num_elems]


def saturated(x, block=None):
    """NaN as 0, infinities as the largest value, or as the largest of their block in its row."""
    largest = np.finfo(x.dtype).max
    if block is not None:
        starts = np.arange(0, x.shape[-1], block)
        reach = np.maximum.reduceat(np.where(np.isfinite(x), np.abs(x), 0), starts, axis=-1)
        largest = np.repeat(np.where(reach > 0, reach, largest), block, axis=-1)[..., : x.shape[-1]]
    return np.clip(np.where(np.isnan(x), x.dtype.type(0), x), -largest, largest)


def pack_nibbles(codes, high_first=False, beside=0):
    codes = np.append(codes, [beside] * (len(codes) % 2)).astype(np.int64) & 15
    first, second = codes[0::2], codes[1::2]
    return (first << 4 | second if high_first else second << 4 | first).astype(np.uint8)


def unpack_nibbles(packed, num_elems, high_first=False):
    packed = packed.reshape(-1).astype(np.int64)
    pair = [packed >> 4, packed & 15] if high_first else [packed & 15, packed >> 4]
    return np.stack(pair, axis=1).reshape(-1)[:num_elems]


def pack_bits(codes, width):
    """A stream of bits, lowest first, of codes of `width` bits."""
    bits = codes.reshape(-1, 1).astype(np.int64) >> np.arange(width) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_bits(packed, num_elems, width):
    bits = np.unpackbits(packed.reshape(-1), count=width * num_elems, bitorder="little")
    return bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width))
