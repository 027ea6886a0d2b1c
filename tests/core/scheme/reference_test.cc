// Every scheme equals its scalar definition bit for bit, on every SIMD target, in both directions.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/scheme/registry.h"
#include "core/session/planner.h"
#include "core/simd/targets.h"
#include "tests/support/params.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using testing::MakeTensor;
using testing::MakeValues;
using testing::ValueKind;

// All combinations of what a scheme allows, of one key at a time beside the defaults.
std::vector<QuantSpec> SpecsOf(const SchemeInfo& info) {
  std::vector<QuantSpec> specs;
  const QuantSpec base = {.scheme = std::string(info.name)};
  const auto add = [&](auto change) {
    specs.push_back(base);
    change(specs.back());
  };
  add([](QuantSpec&) {});
  for (const Mode mode : info.modes) add([=](QuantSpec& spec) { spec.mode = mode; });
  for (const Rounding rounding : info.roundings) {
    add([=](QuantSpec& spec) { spec.rounding = rounding; });
    if (!info.takes_scale) continue;
    add([=](QuantSpec& spec) {  // ties, clipping, an odd zero point
      spec.rounding = rounding;
      spec.scale = 1;
      spec.zero_point = info.bits == 2 && info.is_signed ? 1 : 3;
    });
  }
  for (const ScaleType type : info.scale_types)
    add([=](QuantSpec& spec) { spec.scale_type = type; });
  for (const uint32_t levels : info.levels) add([=](QuantSpec& spec) { spec.levels = levels; });
  for (const absl::string_view layout : info.layouts) {
    add([=](QuantSpec& spec) { spec.layout = std::string(layout); });
    add([=](QuantSpec& spec) {
      spec.layout = std::string(layout);
      spec.granularity = Granularity{.kind = GranularityKind::kGroup, .group_elems = 16};
    });
  }
  for (const NonFinite policy : info.nonfinites) {
    add([=](QuantSpec& spec) { spec.nonfinite = policy; });
  }
  for (const Dialect& dialect : info.dialects) {
    const auto use = [&](auto change) {
      add([&](QuantSpec& spec) {
        spec.dialect = std::string(dialect.name);
        change(spec);
      });
    };
    use([](QuantSpec&) {});
    const auto& fixed = dialect.fixed;
    const bool has_modes = std::find(fixed.begin(), fixed.end(), "mode") == fixed.end();
    if (info.modes.empty() || !has_modes) continue;
    use([](QuantSpec& spec) { spec.mode = Mode::kAsymmetric; });
    use([](QuantSpec& spec) {
      spec.mode = Mode::kAsymmetric;
      spec.granularity = Granularity{.kind = GranularityKind::kGroup, .group_elems = 32};
    });
  }
  for (Granularity granularity : info.granularities) {
    if (granularity.kind == GranularityKind::kAxis) granularity.axis = -1;
    if (granularity.kind == GranularityKind::kGroup && granularity.group_elems == 0) {
      granularity.group_elems = 5;
    }
    if (granularity.kind == GranularityKind::kBlock) {
      granularity.block_rows = 2;
      granularity.block_cols = 3;
    }
    add([=](QuantSpec& spec) { spec.granularity = granularity; });
    if (granularity.group_elems != 5) continue;
    for (const int64_t group_elems : {16, 32, 100, -1}) {  // runs that have a kernel's loop each
      granularity.group_elems = group_elems;
      add([=](QuantSpec& spec) { spec.granularity = granularity; });
    }
  }
  for (const Tail tail : info.tails) {
    if (tail == Tail::kReject) continue;
    for (QuantSpec& spec : specs) {
      if (!spec.tail) spec.tail = tail;
    }
    break;
  }
  return specs;
}

using Case = std::tuple<const Scheme*, std::string>;

class ReferenceTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(std::get<1>(GetParam())).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }

  // Encodes and decodes one row both ways; parameters come from ranges that the values partly
  // leave.
  template <typename T>
  void Compare(const QuantSpec& spec, int64_t rows, int64_t cols, ValueKind kind) {
    const TensorDesc tensor =
        MakeTensor("t", sizeof(T) == 4 ? DType::kF32 : DType::kF64, {rows, cols});
    const absl::StatusOr<Plan> plan = MakePlan(spec, tensor, int64_t{1} << 40);
    const SchemeInfo& info = std::get<0>(GetParam())->info;
    const bool whole_only = info.tails == std::vector<Tail>{Tail::kReject};
    if (!plan.ok() && spec.dialect == "usearch" && cols > kTileElems) return;
    if (!plan.ok() && whole_only && cols % info.granularities[0].group_elems != 0) return;
    const bool recurs = absl::StrContains(plan.status().message(), "come again and again");
    if (recurs && std::get<0>(GetParam())->resolve_values != nullptr) return;
    ASSERT_TRUE(plan.ok()) << plan.status();
    const PackedLayout& layout = plan->resolved.layout;
    std::vector<std::vector<std::byte>> params;
    ParamPlanes planes;
    ParamView view;
    for (size_t i = 0; i < layout.planes.size(); ++i) {
      params.emplace_back(i == 0 ? 0 : static_cast<size_t>(layout.planes[i].size_bytes));
    }
    for (size_t i = 1; i < layout.planes.size(); ++i) planes.planes[i] = params[i];
    const Scheme& scheme = *plan->scheme;
    std::vector<Range> ranges;
    for (int64_t i = 0; i < layout.groups.num_groups; ++i) {
      ranges.push_back(
          {-1.0 - 0.01 * static_cast<double>(i % 7), 0.5 + 0.02 * static_cast<double>(i % 5)});
    }
    Histogram histogram;
    const std::vector<std::byte> seen = MakeValues(MakeTensor("h", DType::kF32, {4096}), kind, 18);
    histogram.Add({reinterpret_cast<const float*>(seen.data()), 4096});
    if (scheme.resolve_constants) {
      scheme.resolve_constants(
          plan->resolved, {.range = {-2, 1.5}, .groups = ranges, .histogram = &histogram}, planes);
    }
    std::vector<std::byte> working(
        static_cast<size_t>(layout.working_bytes * layout.groups.num_groups));
    planes.working = working;
    if (scheme.resolve) scheme.resolve(plan->resolved, ranges, planes);
    if (layout.from_values()) {
      const std::vector<std::byte> others = MakeValues(tensor, kind, 19);
      const T* from = reinterpret_cast<const T*>(others.data());
      testing::ResolveFromValues(*plan, std::vector<double>(from, from + rows * cols), planes);
    }
    view = planes;

    const std::vector<std::byte> bytes = MakeValues(tensor, kind, 17);
    const T* values = reinterpret_cast<const T*>(bytes.data());
    const int64_t row_elems = std::max<int64_t>(layout.row_elems, 1);
    for (int64_t begin = 0; begin < tensor.shape.num_elems();) {
      const int64_t row_end = (begin / row_elems + 1) * row_elems;
      const int64_t tile_elems = kTileElems / layout.atom_elems * layout.atom_elems;
      const int64_t count = std::min(tile_elems, row_end - begin);
      CompareSegment(*plan, view, values + begin, begin, count);
      if (HasFatalFailure() || HasNonfatalFailure()) {
        FAIL() << FormatSpec(plan->resolved.spec) << " shape " << tensor.shape.Text() << " kind "
               << static_cast<int>(kind) << " elem bytes " << sizeof(T) << " from " << begin;
      }
      begin += count;
    }
  }

  template <typename T>
  void CompareSegment(const Plan& plan, const ParamView& view, const T* values, int64_t begin,
                      int64_t count) {
    const PackedLayout& layout = plan.resolved.layout;
    const size_t size_bytes =
        static_cast<size_t>(layout.CodeOffset(begin + count) - layout.CodeOffset(begin));
    std::vector<std::byte> codes(size_bytes, std::byte{0xAA}),
        codes_ref(size_bytes, std::byte{0x55});
    Segment segment = {{}, begin, view};
    SetPointer(values, segment.values.f32, segment.values.f64);
    segment.values.num_elems = count;
    Counts counts, counts_ref;
    plan.scheme->encode(plan.resolved, segment, codes, &counts, nullptr);
    plan.scheme->encode_ref(plan.resolved, segment, codes_ref, &counts_ref);
    ASSERT_EQ(codes, codes_ref);
    ASSERT_EQ(counts.clipped, counts_ref.clipped);
    // What decoding needs of a row lies behind all of its codes.
    if (layout.trailer_bytes > 0 && (begin + count) % layout.row_elems != 0) return;
    CompareDecoded<float>(plan, codes, view, begin, count);
    CompareDecoded<double>(plan, codes, view, begin, count);
    CompareMeasured(plan, segment, values, codes, counts);
  }

  // Codes made with a meter are the same, and the meter shows what decoding by the scalar
  // definition gives.
  template <typename T>
  void CompareMeasured(const Plan& plan, const Segment& segment, const T* values,
                       const std::vector<std::byte>& codes, const Counts& counts) {
    std::vector<std::byte> measured(codes.size(), std::byte{0x77});
    Counts measured_counts;
    Meter meter;
    plan.scheme->encode(plan.resolved, segment, measured, &measured_counts, &meter);
    ASSERT_EQ(measured, codes);
    ASSERT_EQ(measured_counts.clipped, counts.clipped);
    const int64_t num_elems = segment.values.num_elems;
    std::vector<T> decoded(static_cast<size_t>(num_elems));
    TileSpan span;
    SetPointer(decoded.data(), span.f32, span.f64);
    span.num_elems = num_elems;
    plan.scheme->decode_ref(plan.resolved, codes, segment.params, segment.first_elem, span);
    MeterLanes<T> lanes;
    ForEachRun(plan.resolved.layout.groups, segment.first_elem, num_elems,
               [&](int64_t begin, int64_t count) {
                 MeasureSegment(values + begin, decoded.data() + begin, count, lanes);
               });
    const auto figures = FiguresOf(meter.lanes<T>(), values, num_elems);
    ASSERT_EQ(figures, FiguresOf(lanes, values, num_elems));
  }

  template <typename T>
  void CompareDecoded(const Plan& plan, const std::vector<std::byte>& codes, const ParamView& view,
                      int64_t begin, int64_t count) {
    std::vector<T> out(static_cast<size_t>(count)), out_ref = out;
    TileSpan span, span_ref;
    SetPointer(out.data(), span.f32, span.f64);
    SetPointer(out_ref.data(), span_ref.f32, span_ref.f64);
    span.num_elems = span_ref.num_elems = count;
    plan.scheme->decode(plan.resolved, codes, view, begin, span);
    plan.scheme->decode_ref(plan.resolved, codes, view, begin, span_ref);
    ASSERT_EQ(0, std::memcmp(out.data(), out_ref.data(), out.size() * sizeof(T)));
  }

  template <typename F, typename D>
  static void SetPointer(float* from, F& f32, D&) {
    f32 = from;
  }
  template <typename F, typename D>
  static void SetPointer(const float* from, F& f32, D&) {
    f32 = from;
  }
  template <typename F, typename D>
  static void SetPointer(double* from, F&, D& f64) {
    f64 = from;
  }
  template <typename F, typename D>
  static void SetPointer(const double* from, F&, D& f64) {
    f64 = from;
  }
};

TEST_P(ReferenceTest, EqualsScalarDefinition) {
  const Scheme& scheme = *std::get<0>(GetParam());
  for (const QuantSpec& spec : SpecsOf(scheme.info)) {
    std::vector<ValueKind> kinds = {ValueKind::kNormal, ValueKind::kTies, ValueKind::kWide,
                                    ValueKind::kTiny, ValueKind::kZero};
    if (spec.nonfinite == NonFinite::kPropagate) kinds.push_back(ValueKind::kNonFinite);
    for (const ValueKind kind : kinds) {
      Compare<float>(spec, 3, 4096 + 37, kind);
      Compare<float>(spec, 3, 4096 + 48, kind);
      Compare<float>(spec, 3, 4096 + 256, kind);
      Compare<double>(spec, 2, 100, kind);
      Compare<double>(spec, 2, 512, kind);
      if (HasFailure()) return;
    }
  }
}

TEST_P(ReferenceTest, EveryLength) {
  const Scheme& scheme = *std::get<0>(GetParam());
  QuantSpec spec = {.scheme = std::string(scheme.info.name)};
  if (!scheme.info.tails.empty()) spec.tail = scheme.info.tails.back();
  for (int64_t cols = 1; cols <= 131; ++cols) {
    Compare<float>(spec, 1, cols, ValueKind::kNormal);
    Compare<double>(spec, 1, cols, ValueKind::kTies);
    if (HasFailure()) return;
  }
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const Scheme* scheme : AllSchemes()) {
    for (const std::string& target : SupportedSimdTargets()) cases.emplace_back(scheme, target);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(SchemesAndTargets, ReferenceTest, ::testing::ValuesIn(AllCases()),
                         [](const ::testing::TestParamInfo<Case>& info) {
                           return absl::StrCat(std::get<0>(info.param)->info.name, "_",
                                               std::get<1>(info.param));
                         });

}  // namespace
}  // namespace quantd
