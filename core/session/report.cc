#include "core/session/report.h"

#include <cmath>

namespace quantd {

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
