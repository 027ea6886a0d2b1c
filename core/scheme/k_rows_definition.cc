// What the definitions of the K-quants with minima share. Tested by tests/e2e/test_definitions.py.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/scheme/k_rows.h"

namespace quantd {
namespace {

constexpr char kRest[] = R"(
    x' = (d * sc) * code - (dmin * mn)                   in f32; wider types take that value

*Encoding.* near(v) = (bits(v + 12582912) & 0x7FFFFF) - 0x400000, bits the binary32 as an integer: rint
for |v| up to 2^22. Weights of a run without importance: PLAINW; with
importance q, one of each column: w = q * sqrt(ENERGY / 256 + x * x).

r(e) is RESIDUAL.

    search(run; first, step, steps):        first FIRST, step 0.1, steps STEPS
                                            with importance -0.9, 0.05, 36
      lo, hi = least and largest x;  W = sum of w;  X = sum of w * x;  lo = min(lo, 0)
      hi <= lo: scale = 0, minimum = -lo, codes 0, done
      i = TOP / (hi - lo);  scale = 1 / i
      codes = clamp(near(i * (x - lo)), 0, TOP)
      best = sum of w * r(e), e = scale * code + lo - x
      for k = 0 to steps:
        i = (first + step * k + TOP) / (hi - lo)
        c = clamp(near(i * (x - lo)), 0, TOP)
        L = sum of w * c;  LL = sum of (w * c) * c;  XL = sum of (w * c) * x
        D = W * LL - L * L;  next k unless D > 0
        a = (W * XL - X * L) / D;  b = (LL * X - L * XL) / D
        b > 0: b = 0, a = XL / LL
        E = sum of w * r(e), e = a * c + b - x
        E < best: best = E, codes = c, scale = a, lo = b    (hi stays, lo is used from here on)
      minimum = -lo

W and X begin with the first value, not with 0. Without importance, of the RUNS scales S (and likewise of
the minima): top = the largest, at least 0;  code = PLAINCODE, 0 where top is 0;
d = top / SMAX. With importance, by the W of the runs, u, of the RUNS scales S (likewise the minima):

      top = max(0, largest S);  top < 1e-15: d = 0, codes 0, done
      i = SMAX / top;  codes = near(i * S);  r = 1 / i;  best = sum of (u * e) * e, e = S - r * code
      for k = -4 to 4 but 0:  j = (0.1 * k + SMAX) / top;  c = min(SMAX, near(j * S));  r = 1 / j
        E = sum of (u * e) * e, e = S - r * c;  E < best: best = E, i = j
      codes = min(SMAX, near(i * S));  A = sum of (u * S) * code;  Q = sum of (u * code) * code
      up to 5 times, until no code changes, for each of the RUNS in order:
        a = A - (u * S) * code;  q = Q - (u * code) * code;  next one unless a > 0 and q > 0
        c = min(SMAX, near((S * q) / a));  next one if c is the code
        a = a + (u * S) * c;  q = q + (u * c) * c
        (a * a) * Q > (A * A) * q: code = c, A = a, Q = q
      d = A / Q, 0 where Q is not above 0

d and dmin are rounded to f16, ties to even, NaN to 0, what is too large to infinity. Then, with what
is stored, of runs where t = d * sc is not 0: code = clamp(near((x + dmin * mn) / t), 0, TOP); of others
those of the search stay. Clipped: (x + dmin * mn) / t at most -0.5 or at least TOP.5; all of a run where
t is not finite, or t is 0 and dmin * mn not finite; all of a block whose d was NaN.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., L / 256 * BYTES] |
)";

}  // namespace

std::string KRowDefinition(const KRowFormat& format, absl::string_view layout) {
  const KSearch& search = format.plain;
  const bool halves = format.energy_factor == 1;
  const std::string runs =
      absl::StrCat(format.runs_per_block(), " runs of ", search.run_elems);
  return absl::StrReplaceAll(
      SuperBlockDefinition(absl::StrCat(layout, kRest), runs, format.block_bytes),
      {{"RUNS", absl::StrCat(format.runs_per_block())},
       {"BYTES", absl::StrCat(format.block_bytes)},
       {"PLAINW", search.adds_average
                      ? absl::StrCat("w = sqrt(sum of x * x / ", search.run_elems, ") + |x|")
                      : "w = |x|"},
       {"ENERGY", halves ? "(sum of x * x of the block)" : "2 * (sum of x * x of the block)"},
       {"FIRST", absl::StrCat(search.first)},
       {"STEPS", absl::StrCat(search.num_steps)},
       {"RESIDUAL", search.by_absolute_error ? "|e|, with importance e * e" : "e * e"},
       {"TOP", absl::StrCat(format.highest)},
       {"PLAINCODE", format.clamp_scale_code == format.max_scale_code
                         ? absl::StrCat("min(", format.max_scale_code, ", near((",
                                        format.max_scale_code, " / top) * S))")
                         : absl::StrCat("near((", format.max_scale_code, " / top) * S)")},
       {"SMAX", absl::StrCat(format.max_scale_code)}});
}

}  // namespace quantd
