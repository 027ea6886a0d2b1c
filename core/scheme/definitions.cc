// The common part of the definitions, and the page that all of them make. The text is checked from
// outside: tests/e2e/definitions.py decodes and encodes by it alone, test_definitions.py compares.
//
// Entries: CommonDefinition and DefinitionsPage.
#include "core/scheme/definitions.h"

#include "absl/strings/str_cat.h"
#include "core/scheme/registry.h"
#include "core/scheme/scheme.h"

namespace quantd {

absl::string_view CommonDefinition() {
  static constexpr absl::string_view kText = R"(# Definitions

How every byte follows from the values and the spec. `quantctl schemes --definitions` prints this
page, `quantctl schemes NAME` the part of one scheme, and ListSchemes returns both.

## Common to all schemes

### Notation

f32 and f64 are IEEE 754 binary32 and binary64. Every operation is rounded once, to nearest, ties to
even; subnormal results stay; nothing is fused but where `fma` stands. f32(x) rounds x likewise.
rint(x) is the nearest whole number, ties to even. clamp(x, a, b) = min(max(x, a), b). A division is
a division, not a product with a reciprocal, unless one is written. n is the number of elements, L
the last dimension. Flat index: counted in C order, the last dimension fastest. Entries of planes
are little-endian, integers two's complement. "Nibbles low first": byte k holds code 2k in its low
four bits and code 2k + 1 in its high ones; "high first" the other way round. "A stream of bits" of
codes of b bits: bit j of code i is bit b * i + j of the stream, which is bit (b * i + j) mod 8, 0 the
lowest, of byte (b * i + j) / 8, rounded down; 0 behind the last code.

### Types of the arithmetic

T, in which values are encoded, is f32 for f32, f16, bf16, int8, int16, uint8 and uint16, and f64
for f64, int32, uint32 and int64. Values widen to T exactly, int64 beyond 2^53 to the nearest f64.

U, in which codes are decoded, is f32 where f32 is wanted, and f64 where f64, f16 or bf16 are,
whatever the original was. To f16 and bf16 the f64 is then rounded once, ties to even, NaN as fp16 and
bf16 have it under `nonfinite=propagate`. Parameters widen to T and U exactly.

### Groups

| key | elements that share parameters | plane with an entry for each group |
| --- | --- | --- |
| `per=tensor` | all | shape [] |
| `axis=K` | those with one index in dimension K (-1: the last) | [size of dimension K] |
| `group=N` | runs of N on the last axis, from its beginning | [.., ceil(L / N)] |
| `block=RxC` | R by C of the last two dimensions, M by L | [.., ceil(M / R), ceil(L / C)] |

Groups are numbered in C order of that plane. A last group or block may have fewer elements under
`tail=short`, is filled up with zeros under `tail=pad`, and is refused under `tail=reject`.

### Ranges

[min, max] of a group are its least and largest finite value, exactly, -0 counted as +0; [0, 0]
where there is none. `range=A..B` puts [A, B] in the place of each. `range=Nsigma` is

    [max(min, m - N * s), min(max, m + N * s)],  s = sqrt(M / c)          in f64

with the mean m, the sum M of squares of deviations from it, and the number c of the finite values:
the deviation of the population. `range=absmean` is [-a, a], a = A / c, A the sum of min(|x|, f32's
largest) in f64, over the finite values. m, M and A are summed in this order:

1. *Stripes.* Where groups recur (`axis=K` behind dimensions of more than one index) and where there
   is one group, stripes have 65,536 elements, the last one the rest. Else a stripe ends at the last
   place within 65,536 elements of its beginning where a run (`block`: a band of R rows; `nested8`:
   256 groups) and an atom end together, or at the tensor's end. Where there is none, what lies up
   to the first such place is cut into stripes of 65,536. An atom is 1 element, of mlx_q2 to mlx_q8
   32, and of other codes of b < 8 bits the fewest that fill whole bytes: 8 / gcd(b, 8). Under
   `layout=words` atoms are counted in each row of the last axis, and what is left at its end is one;
   stripes and tiles then have as many whole atoms as fit.
2. *Tiles* are 4,096 elements of a stripe, from its beginning. *Runs* are elements of a tile that
   lie next to each other and have one group.
3. *Of a run*, element j goes to lane j mod 16; lane sums are in T: S of x, Q of x * x (product, then
   sum). Lanes fold in f64: lane i takes in i + 8, then + 4, + 2, + 1. m = S / c, M = Q - (c * m) * m.
   Where M < Q / 2 the lanes are summed again, D of x - k and E of (x - k) * (x - k), k = T(m), and
   m = (c * k + D) / c, M = max(0, E - D * D / c). Where a value is not finite, or the largest |x| is
   neither 0 nor in 1e-15 to 1e17 (f64: 1e-145 to 1e150, both as T), lanes are f64, without those
   that are not finite: m = S / c, M the fold of (x - m) * (x - m). The lanes of A are f64 always.
4. *Merging* b, which comes after a: d = m_b - m_a, c = c_a + c_b, m = m_a + d * (c_b / c),
   M = M_a + (M_b + (d * d) * ((c_a * c_b) / c)), A = A_a + A_b. The runs of a group merge in order
   within each stripe, then the stripes in order.
5. Where elements of a group never lie next to each other (`axis=K` of more than one index, with
   none but 0 behind K), the finite values of a stripe come one by one instead, from c = m = M = 0:
   c = c + 1, d = x - m, m = m + d / c, M = M + d * (x - m), in f64; A takes in one after the other.

`range=pN` leaves out those of the c finite values that lie farthest out. A scheme is *asymmetric*
under `mode=asymmetric` and where it has unsigned codes and no modes (mlx_*, fbgemm_*), else
symmetric. [a, b] is the least and the largest value; where k is 0, it is the range.

    symmetric   k = floor(c * ((100 - N) / 100) + 1e-6), at most c - 1                       in f64
                r = the (k + 1)th largest |x|,  [max(a, -r), min(b, r)]
    asymmetric  k = floor(c * ((100 - N) / 2 / 100) + 1e-6), at most (c - 1) / 2 rounded down
                [the (k + 1)th least, the (k + 1)th largest value]

Where one group has all elements, a value counts as that of its *bucket*: x is rounded to f32 (at most
its largest), and a bucket are the f32 with the same upper 16 bits, u with the sign bit off. Its value
is the middle of the f32 with bits u * 2^16 and the one with (u + 1) * 2^16, or 2^128 where that is
infinite, and 0 where u is 0; with the sign of x, and clamped to [a, b] (|x|: to max(-a, b)). Where
groups come again and again (`axis=K` behind dimensions of more than one index) buckets have the same
upper 13 bits, 2^19 standing for 2^16, those whose u is 512 or more below the largest u of the group's
values count as 0, too, and |x| is that of what is clamped to [a, b]; groups of 2^32 values are refused.

`range=mse` is [f * a, f * b] with the f whose codes have the least sum E of squared errors, scales and
codes being the scheme's own (`stochastic` rounding as `half_even`): f = 2^(-i/2), i = 0 .. 7, while E
gets less than before; from g, the last that did (or 1), f = g * 2^(-j/8), j = 1, 2, 3, likewise; and
if the first of these did not, and g < 1, f = g * 2^(j/8), j = 1, 2, 3, likewise. Powers are the nearest
f64. Of a run (2. above) element j adds d * d to lane j mod 16, d = x - x' in T,
x' as decoded in T, 0 where x is not finite; lanes are f64 and fold as in 3., runs add up in order.
Where values count as those of buckets, E is the sum of n * (d * d) over buckets, in order of their bits
(where groups come again and again what counts as 0 goes first, as one), n values counting as x, in T.

`range=entropy` is [max(a, -r), min(b, r)], r = m * (t / 2048), m the larger one of |a| and |b| (0: it
is [a, b]), with the t of 128 .. 2048 that has the least D, the largest of equal ones. c_i values have
floor(|x| / m * 2048) = i (2048 as 2047), |x| of buckets where values count as theirs. In f64, sums
in order: S(j), E(j) and Z(j) over i < j of c_i, of c_i * log2(c_i), and of 1 where c_i > 0; n = S(2048),
w = t / 128 rounded down;

    part(c, s, z) = c * (log2(s) - log2(z)), 0 where s is 0
    P = the sum of part(s, s, z), s = S(kw + w) - S(kw), z = Z(kw + w) - Z(kw), over k = 0 .. 126
    o = n - S(t),  s = S(t) - S(127w),  e = c_(t - 1) + o,  z = Z(t - 1) - Z(127w) + (1 where e > 0)
    D = (((E(t - 1) + e * log2(e)) - P) - part(s + o, s, z)) + n * (log2(S(t)) - log2(n))

and no t where S(t) is 0, or s is 0 and o is not. log2(0) is 0; log2(2^k * v), sqrt(1/2) < v <=
sqrt(2), is k + ((2 * z) * u) * 1.4426950408889634, z = (v - 1) / (v + 1), u = u * (z * z) + 1 / h from
0 with h = 19, 17 .. 1.

### Stored scales

A scale, found in f64, is stored as `scale_type` says. A scale of 0 is 1. Others are clamped first:

| scale_type | plane | clamped to | then |
| --- | --- | --- | --- |
| f32 | f32 | 2^-126 to f32's largest | rounded to f32 |
| f16 | f16 | 2^-24 to 65504 | rounded to f16, ties to even |
| bf16 | bf16 | 2^-126 to f32's largest | rounded to bf16, ties to even, at most its largest |
| pow2 | f32 | at most 2^127 | the least power of two not below it, at least 2^-126 |
| dyadic16 | int16 and int8 | 2^-113 to 32767 * 2^113 | m * 2^-s, as follows |

Under dyadic16 two planes stand in the place of `scale`: `multiplier` with m, of 2^14 to 2^15 - 1,
and `shift` with s, of -113 to 127. Of a scale f * 2^e, 1/2 <= f < 1, m is rint(f * 2^15) and s is
15 - e; where m would be 2^15, it is 2^14, and s one less. m * 2^-s, which f32 holds, is the scale
that codes are made and read with. Integer-only decoding gives the same: (code - z) * m is a whole
number of 32 bits, and times 2^-s, rounded once to U, it is x'.

`scale=` is refused outside of these (bf16: up to its own largest; pow2: from 2^-126), and rounded to
the type, pow2 to the nearest power, the upper one of two. The spec that is recorded says what is
stored.

### Rounding

`half_even`, `half_away`, `half_up`, `half_down` round to the nearest whole number, ties to the even
one, away from zero, up, down; `truncate` toward zero; `floor` down; `ceil` up. `stochastic` takes
floor(v) + 1 where (r >> 8) * 2^-24 < v - floor(v) (in T), else floor(v), by the 32 bits r of the
element's noise.

*Noise* of the element with flat index i: word i mod 4 of Philox4x32-10 (Salmon et al., SC 2011) with
the key (seed mod 2^32, seed >> 32) and the counter (c mod 2^32, c >> 32, h mod 2^32, h >> 32),
c = i / 4 rounded down, h the XXH3-64 (seed 0) of the tensor's name in UTF-8. Each of its 10 rounds
makes of counter (a, b, c, d) and key (k, l)

    p = 0xD2511F53 * a,  q = 0xCD9E8D57 * c                     of 64 bits
    (q >> 32) ^ b ^ k,  q mod 2^32,  (p >> 32) ^ d ^ l,  p mod 2^32

and then k += 0x9E3779B9, l += 0xBB67AE85 (mod 2^32).

### Values that are not finite

`nonfinite=reject` refuses them. Under `saturate` NaN is encoded as 0 and an infinity as the largest
finite value of T with its sign; neither is in a range. In ggml's formats, which take a scale from the
values of a block, an infinity counts as the largest finite |x| there, if that is not 0. `propagate` is
for codes that are floats.

### Outliers

`outliers=K` keeps the K values of largest |x| of each row, which is the last dimension; of equal
ones those of lower index. Values that are not finite are none. To the scheme these values are 0, in
all that is said of ranges and codes. There are two planes more, the last ones, rows in C order:

| plane | dtype | shape |
| --- | --- | --- |
| outlier_index | uint32 | [.., K]: where in the row they are, ascending |
| outlier_value | the tensor's | [.., K]: the values, unchanged |

A row with fewer than K finite values has 4294967295 and 0 in its last entries. x' is the value that
is kept, as f64, then rounded once where f32, f16 or bf16 is wanted. Errors are those of all x'.

Stripes (Ranges, 1.) then end where a row does, too: those of 65,536 elements at the last place
within so many where a row and an atom end together, the others where that is also a run's end.

### Values near a type's end

Where x' in f32 is not finite, but in f64 is, it is the f64 clamped to f32's largest on either side,
then rounded. A finite f64 beyond the range of f16 or bf16 becomes their largest likewise.

### Planes in files and messages

Plane `codes` comes first, the others in the order of the tables below. In messages planes have
their names. In files, `codes` of tensor NAME is the tensor NAME, plane P the tensor NAME.P, with
dtype and shape of the tables; a file that is .safetensors has F8_E4M3 for f8_e4m3, and so on.
Tensors that were kept are there as they were. `__metadata__` has what the input's had, and

    "quantd.version": "1"
    "quantd.NAME": {"spec": "int8:per=tensor,..", "dtype": "f32", "shape": [2, 3],
                    "digests": {"codes": "xxh3_4k:..", "scale": "xxh3_4k:.."}}

The value of the second is JSON text: the spec with every default filled in (what does not apply is
left out), type and shape of the original, and the digests of the planes, in order. Where the input has
a tensor NAME.P of its own, plane P has another name, and "tensors": {"P": that name} is there too. A
folder of .npy files has the same metadata in index.json, which is laid out as a .safetensors header.

*Digest* of a plane: its bytes are cut into leaves of 4,096, the last one shorter; the XXH3-128 (seed
0) of each leaf, as 16 bytes in canonical form (big-endian, the high 64 bits first), are put one
after the other; the XXH3-128 of these is written as 32 lower-case hex digits, canonical form again,
behind "xxh3_4k:". A plane without bytes has no leaf.

*Clipped* counts finite values that lie beyond what the outermost codes stand for by half a step or
more.
)";
  return kText;
}

std::string DefinitionsPage() {
  std::string page(CommonDefinition());
  for (const Scheme* scheme : AllSchemes()) {
    absl::StrAppend(&page, "\n## ", scheme->info.name, "\n\n", scheme->info.definition);
  }
  return page;
}

}  // namespace quantd
