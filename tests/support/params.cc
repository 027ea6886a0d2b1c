#include "tests/support/params.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quantd::testing {

void ResolveFromValues(const Plan& plan, std::span<const double> values, const ParamPlanes& out) {
  const PackedLayout& layout = plan.resolved.layout;
  std::vector<std::vector<double>> groups(static_cast<size_t>(layout.groups.num_groups));
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t group = layout.groups.RunAt(static_cast<int64_t>(i)).group;
    if (std::isfinite(values[i])) groups[static_cast<size_t>(group)].push_back(values[i]);
  }
  for (size_t group = 0; group < groups.size(); ++group) {
    ParamPlanes own = out;
    own.first_group = static_cast<int64_t>(group);
    for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
      if (layout.planes[plane].role != PlaneRole::kPerGroup) continue;
      own.planes[plane] =
          own.planes[plane].subspan(group * static_cast<size_t>(layout.EntryBytes(plane)));
    }
    own.working = own.working.subspan(group * static_cast<size_t>(layout.working_bytes));
    std::vector<double>& wide = groups[group];
    std::vector<float> narrow(wide.begin(), wide.end());
    const bool is_narrow = WorksAsF32(plan.resolved.tensor.dtype);
    plan.scheme->resolve_values(plan.resolved,
                                {is_narrow ? narrow.data() : nullptr,
                                 is_narrow ? nullptr : wide.data(), std::ssize(wide)},
                                own);
  }
}

FoundParams::FoundParams(const Plan& plan, std::span<const Range> groups, const Range& tensor,
                         const Histogram* histogram) {
  Resolve(plan, groups, tensor, histogram);
}

FoundParams::FoundParams(const Plan& plan, std::span<const double> values) {
  const GroupMap& map = plan.resolved.layout.groups;
  std::vector<Range> groups(static_cast<size_t>(map.num_groups));
  std::vector<double> magnitudes(groups.size()), counts(groups.size());
  std::vector<bool> seen(groups.size());
  Range tensor;
  bool any = false;
  Histogram histogram;
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = values[i] + 0.0;
    if (!std::isfinite(value)) continue;
    const auto group = static_cast<size_t>(map.RunAt(static_cast<int64_t>(i)).group);
    Range& range = groups[group];
    range = seen[group] ? Range{std::min(range.min, value), std::max(range.max, value)}
                        : Range{value, value};
    tensor = any ? Range{std::min(tensor.min, value), std::max(tensor.max, value)}
                 : Range{value, value};
    seen[group] = any = true;
    magnitudes[group] += std::min<double>(std::fabs(value), std::numeric_limits<float>::max());
    ++counts[group];
    const auto narrow = static_cast<float>(value);
    histogram.Add({&narrow, 1});
  }
  if (plan.resolved.spec.range == "absmean") {
    for (size_t group = 0; group < groups.size(); ++group) {
      const double mean = seen[group] ? magnitudes[group] / counts[group] : 0;
      groups[group] = {-mean, mean};
    }
  }
  if (plan.resolved.spec.given_range.has_value()) {
    tensor = *plan.resolved.spec.given_range;
    std::fill(groups.begin(), groups.end(), tensor);
  }
  Resolve(plan, groups, tensor, &histogram, values);
}

void FoundParams::Resolve(const Plan& plan, std::span<const Range> groups, const Range& tensor,
                          const Histogram* histogram, std::span<const double> values) {
  const PackedLayout& layout = plan.resolved.layout;
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    memory_[plane].resize(static_cast<size_t>(layout.planes[plane].size_bytes));
    planes_.planes[plane] = memory_[plane];
  }
  working_.resize(static_cast<size_t>(layout.working_bytes * layout.groups.num_groups));
  planes_.working = working_;
  const Scheme& scheme = *plan.scheme;
  if (scheme.resolve_constants != nullptr) {
    scheme.resolve_constants(plan.resolved, {tensor, groups, histogram}, planes_);
  }
  if (scheme.resolve != nullptr) scheme.resolve(plan.resolved, groups, planes_);
  if (layout.from_values()) ResolveFromValues(plan, values, planes_);
}

}  // namespace quantd::testing
