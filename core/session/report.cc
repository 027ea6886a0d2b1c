// Sums that describe a tensor, put together from those of its tiles and stripes, in order, and what
// is derived from them. The squares around the mean merge by
//
//   m2 = m2(a) + m2(b) + (mean(b) - mean(a))^2 * n(a) n(b) / (n(a) + n(b))
//
// (Chan, Golub, LeVeque: "Updating Formulae and a Pairwise Algorithm", 1979, eq. 2.1), for the way
// by the sum of squares cancels: two values 1e9 and 1e9 + 2 have m2 = 2, where the squares, 1e18,
// have neighbours in double that lie 128 apart.
//
// Entry: Figures::Merge. Tested by tests/core/session/report_test.cc and figures_test.cc.
#include "core/session/report.h"

#include <algorithm>
#include <cmath>

namespace quantd {

void Figures::Merge(const Figures& next) {
  if (next.count == 0) return;
  if (count == 0) {
    *this = next;
    return;
  }
  const double own = static_cast<double>(count), other = static_cast<double>(next.count);
  const double delta = next.sum / other - sum / own;
  m2 += next.m2 + delta * delta * (own * other / (own + other));
  min = std::min(min, next.min);
  max = std::max(max, next.max);
  count += next.count;
  sum += next.sum;
  signal_energy += next.signal_energy;
  error_energy += next.error_energy;
  cross_energy += next.cross_energy;
  if (next.max_error > max_error) {
    max_error = next.max_error;
    max_error_elem = next.max_error_elem;
  }
}

Figures ToFigures(const TileFigures& tile) {
  Figures figures;
  figures.count = tile.count;
  figures.sum = tile.sum;
  figures.min = tile.min;
  figures.max = tile.max;
  figures.m2 = tile.m2;
  figures.signal_energy = tile.signal_energy;
  figures.error_energy = tile.error_energy;
  figures.cross_energy = tile.cross_energy;
  figures.max_error = tile.max_error;
  return figures;
}

std::optional<double> Figures::Mean() const {
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

std::optional<double> Figures::StdDev() const {
  if (count == 0) return std::nullopt;
  return std::sqrt(m2 / static_cast<double>(count));
}

std::optional<double> Figures::Mse() const {
  if (count == 0) return std::nullopt;
  return error_energy / static_cast<double>(count);
}

std::optional<double> Figures::SqnrDb() const {
  const double ratio = signal_energy / error_energy;
  if (!(ratio > 0) || !std::isfinite(ratio)) return std::nullopt;
  return 10 * std::log10(ratio);
}

std::optional<double> Figures::Cosine() const {
  // The energy of y follows from (x - y)^2 = x^2 - 2xy + y^2.
  const double decoded_energy = error_energy - signal_energy + 2 * cross_energy;
  if (!(signal_energy > 0) || !(decoded_energy > 0)) return std::nullopt;
  if (!std::isfinite(signal_energy) || !std::isfinite(decoded_energy)) return std::nullopt;
  return cross_energy / (std::sqrt(signal_energy) * std::sqrt(decoded_energy));
}

}  // namespace quantd
