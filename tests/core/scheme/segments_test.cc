// Segments may begin at any atom, end at any, and their values and codes lie at any alignment:
// every scheme gives what its scalar definition gives, codes, counts and figures, however its
// tensor is cut; with importance and without; and decodes from any atom, in rows with a trailer
// too.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

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

constexpr int64_t kBudgetBytes = int64_t{1} << 40;

// Bytes at an odd address.
class OddBytes {
 public:
  explicit OddBytes(int64_t size_bytes, std::byte fill = std::byte{0})
      : bytes_(static_cast<size_t>(size_bytes) + 1, fill) {}
  explicit OddBytes(std::span<const std::byte> from) : OddBytes(std::ssize(from)) {
    std::memcpy(data(), from.data(), from.size());
  }
  std::byte* data() { return bytes_.data() + 1; }
  const std::byte* data() const { return bytes_.data() + 1; }
  std::span<std::byte> span(int64_t offset, int64_t size_bytes) {
    return {data() + offset, static_cast<size_t>(size_bytes)};
  }

 private:
  std::vector<std::byte> bytes_;
};

template <typename View, typename T>
View ViewOf(T* values, int64_t num_elems) {
  View view;
  if constexpr (sizeof(T) == 4) {
    view.f32 = values;
  } else {
    view.f64 = values;
  }
  view.num_elems = num_elems;
  return view;
}

// A tensor, resolved.
struct Subject {
  Plan plan;
  OddBytes values{0};  // as they work: f32 or f64
  std::vector<std::vector<std::byte>> planes;
  std::vector<std::byte> working;
  std::vector<float> weights;
  Importance importance;

  const PackedLayout& layout() const { return plan.resolved.layout; }
  int64_t num_elems() const { return plan.resolved.tensor.shape.num_elems(); }
  ParamView params(bool with_working) const {
    ParamView view;
    for (size_t i = 1; i < planes.size(); ++i) view.planes[i] = planes[i];
    if (with_working) view.working = working;
    return view;
  }
};

template <typename T>
void Resolve(Subject& subject, const T* values, bool narrow) {
  const PackedLayout& layout = subject.layout();
  const Resolved& resolved = subject.plan.resolved;
  const Scheme& scheme = *subject.plan.scheme;
  std::vector<Range> ranges(static_cast<size_t>(layout.groups.num_groups), {0, 0});
  std::vector<bool> seen(ranges.size());
  Range whole;
  Histogram histogram;
  std::vector<float> narrowed;
  std::vector<double> widened;
  for (int64_t i = 0; i < subject.num_elems(); ++i) {
    const double x = static_cast<double>(values[i]) * (narrow ? 0.7 : 1.0);
    const auto group = static_cast<size_t>(layout.groups.RunAt(i).group);
    if (!seen[group]) ranges[group] = {x, x};
    seen[group] = true;
    ranges[group] = {std::min(ranges[group].min, x), std::max(ranges[group].max, x)};
    whole = {std::min(whole.min, x), std::max(whole.max, x)};
    narrowed.push_back(static_cast<float>(values[i]));
    widened.push_back(x);
  }
  histogram.Add(narrowed);
  ParamPlanes out;
  for (const PlaneDesc& plane : layout.planes) {
    const bool is_codes = plane.role == PlaneRole::kCodes;
    subject.planes.emplace_back(is_codes ? 0 : static_cast<size_t>(plane.size_bytes));
  }
  subject.working.resize(static_cast<size_t>(layout.working_bytes * layout.groups.num_groups));
  for (size_t i = 1; i < layout.planes.size(); ++i) out.planes[i] = subject.planes[i];
  out.working = subject.working;
  if (scheme.resolve_constants) {
    scheme.resolve_constants(
        resolved, {.range = whole, .groups = ranges, .histogram = &histogram}, out);
  }
  if (scheme.resolve) scheme.resolve(resolved, ranges, out);
  if (layout.from_values()) testing::ResolveFromValues(subject.plan, widened, out);
}

class SegmentsTest : public ::testing::TestWithParam<std::tuple<const Scheme*, std::string>> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(std::get<1>(GetParam())).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }

  // Returns a random end of a segment that begins at `begin`.
  int64_t SegmentEnd(const PackedLayout& layout, int64_t num_elems, int64_t begin) {
    const int64_t row_start = begin / layout.row_elems * layout.row_elems;
    const int64_t row_end = std::min(row_start + layout.row_elems, num_elems);
    const int64_t most = rng_() % 4 == 0 ? 64 : kTileElems;
    const int64_t want = 1 + static_cast<int64_t>(rng_() % static_cast<uint32_t>(most));
    int64_t elems = RoundUp(want, layout.atom_elems);
    if (elems > kTileElems) elems -= layout.atom_elems;
    return std::min(begin + elems, row_end);
  }

  // Returns the codes from element `begin` on: to `end`, or to the row's end where it has a
  // trailer.
  static int64_t CodesEnd(const PackedLayout& layout, int64_t end) {
    return layout.trailer_bytes > 0 ? CeilDiv(end, layout.row_elems) * layout.row_bytes()
                                    : layout.CodeOffset(end);
  }

  template <typename T>
  void Check(Subject& subject) {
    const PackedLayout& layout = subject.layout();
    const Scheme& scheme = *subject.plan.scheme;
    const T* values = reinterpret_cast<const T*>(subject.values.data());
    const int64_t size_bytes = layout.planes[0].size_bytes;
    OddBytes codes(size_bytes, std::byte{0xAA}), codes_ref(size_bytes, std::byte{0x55});
    Counts counts, counts_ref;
    const auto segment_of = [&](int64_t begin, int64_t end) {
      Segment segment = {.values = {}, .first_elem = begin, .params = subject.params(true)};
      segment.values = ViewOf<TileView>(values + begin, end - begin);
      if (!subject.weights.empty()) segment.importance = &subject.importance;
      return segment;
    };
    const auto out_of = [&](OddBytes& bytes, int64_t begin, int64_t end) {
      const int64_t offset = layout.CodeOffset(begin);
      const bool at_row_end = end % layout.row_elems == 0 || end == subject.num_elems();
      const int64_t end_offset = at_row_end ? CodesEnd(layout, end) : layout.CodeOffset(end);
      return bytes.span(offset, end_offset - offset);
    };
    for (int64_t begin = 0, end; begin < subject.num_elems(); begin = end) {
      end = SegmentEnd(layout, subject.num_elems(), begin);
      scheme.encode_ref(subject.plan.resolved, segment_of(begin, end),
                        out_of(codes_ref, begin, end), &counts_ref);
    }
    for (int64_t begin = 0, end; begin < subject.num_elems(); begin = end) {
      end = SegmentEnd(layout, subject.num_elems(), begin);
      Meter meter;
      const bool measure = rng_() % 4 != 0;
      scheme.encode(subject.plan.resolved, segment_of(begin, end), out_of(codes, begin, end),
                    &counts, measure ? &meter : nullptr);
      const auto got = out_of(codes, begin, end), want = out_of(codes_ref, begin, end);
      ASSERT_TRUE(std::equal(got.begin(), got.end(), want.begin())) << begin << " to " << end;
      if (measure) CheckMeter(subject, values, codes_ref, begin, end, meter.lanes<T>());
      CheckDecoding<float>(subject, codes_ref, begin, end);
      CheckDecoding<double>(subject, codes_ref, begin, end);
      if (HasFailure()) return;
    }
    EXPECT_EQ(counts.clipped, counts_ref.clipped);
  }

  template <typename T>
  OddBytes DecodeRef(Subject& subject, OddBytes& codes, int64_t begin, int64_t end) {
    std::vector<T> values(static_cast<size_t>(end - begin));
    const int64_t offset = subject.layout().CodeOffset(begin);
    subject.plan.scheme->decode_ref(
        subject.plan.resolved, codes.span(offset, CodesEnd(subject.layout(), end) - offset),
        subject.params(false), begin, ViewOf<TileSpan>(values.data(), end - begin));
    return OddBytes(std::as_bytes(std::span(values)));
  }

  template <typename T>
  void CheckMeter(Subject& subject, const T* values, OddBytes& codes, int64_t begin, int64_t end,
                  const MeterLanes<T>& got) {
    const OddBytes decoded = DecodeRef<T>(subject, codes, begin, end);
    const T* y = reinterpret_cast<const T*>(decoded.data());
    MeterLanes<T> want;
    ForEachRun(subject.layout().groups, begin, end - begin, [&](int64_t first, int64_t count) {
      MeasureSegment(values + begin + first, y + first, count, want);
    });
    EXPECT_EQ(FiguresOf(got, values + begin, end - begin),
              FiguresOf(want, values + begin, end - begin))
        << begin << " to " << end;
  }

  template <typename T>
  void CheckDecoding(Subject& subject, OddBytes& codes, int64_t begin, int64_t end) {
    const OddBytes want = DecodeRef<T>(subject, codes, begin, end);
    std::vector<T> got(static_cast<size_t>(end - begin));
    const int64_t offset = subject.layout().CodeOffset(begin);
    subject.plan.scheme->decode(
        subject.plan.resolved, codes.span(offset, CodesEnd(subject.layout(), end) - offset),
        subject.params(false), begin, ViewOf<TileSpan>(got.data(), end - begin));
    EXPECT_EQ(0, std::memcmp(got.data(), want.data(), got.size() * sizeof(T)))
        << begin << " to " << end << ", elem bytes " << sizeof(T);
  }

  template <typename T>
  void CheckTensor(const QuantSpec& spec, const std::vector<int64_t>& dims, ValueKind kind) {
    const TensorDesc tensor = MakeTensor("t", sizeof(T) == 4 ? DType::kF32 : DType::kF64, dims);
    const bool weighted = rng_() % 2 == 0 && std::get<0>(GetParam())->info.takes_importance;
    absl::StatusOr<Plan> plan = MakePlan(spec, tensor, kBudgetBytes,
                                         {.importance_elems = weighted ? dims.back() : 0});
    if (!plan.ok()) return;  // a shape that the scheme does not take
    ++checked_;
    Subject subject = {.plan = *std::move(plan)};
    const std::vector<std::byte> bytes = MakeValues(tensor, kind, seed_);
    subject.values = OddBytes(bytes);
    Resolve(subject, reinterpret_cast<const T*>(bytes.data()), /*narrow=*/rng_() % 2 == 0);
    if (weighted) {
      subject.importance.columns = dims.back();
      subject.importance.batch_elems = subject.num_elems();
      for (int64_t i = 0; i < dims.back(); ++i) {
        subject.weights.push_back(static_cast<float>(rng_() % 100) * 0.25f);
      }
      subject.importance.weights = subject.weights;
    }
    Check<T>(subject);
    if (HasFailure()) {
      FAIL() << FormatSpec(subject.plan.resolved.spec) << " shape " << tensor.shape.Text()
             << " kind " << static_cast<int>(kind) << " elem bytes " << sizeof(T) << " seed "
             << seed_ << " importance " << !subject.weights.empty();
    }
  }

  static std::vector<QuantSpec> SpecsOf(const SchemeInfo& info) {
    std::vector<QuantSpec> specs = {{.scheme = std::string(info.name)}};
    for (Granularity granularity : info.granularities) {
      if (granularity.kind == GranularityKind::kAxis) granularity.axis = 0;
      if (granularity.kind == GranularityKind::kGroup && granularity.group_elems == 0) {
        granularity.group_elems = 48;
      }
      if (granularity.kind == GranularityKind::kBlock) {
        granularity.block_rows = 2;
        granularity.block_cols = 30;
      }
      specs.push_back({.scheme = std::string(info.name), .granularity = granularity});
    }
    for (const ScaleType type : info.scale_types) {
      specs.push_back({.scheme = std::string(info.name), .scale_type = type});
    }
    for (const Dialect& dialect : info.dialects) {
      specs.push_back({.scheme = std::string(info.name), .dialect = std::string(dialect.name)});
    }
    for (const absl::string_view layout : info.layouts) {
      specs.push_back({.scheme = std::string(info.name), .layout = std::string(layout)});
    }
    if (!info.tails.empty()) {
      for (QuantSpec& spec : specs) spec.tail = info.tails.back();
    }
    return specs;
  }

  std::mt19937 rng_;
  uint32_t seed_ = 0;
  int checked_ = 0;
};

TEST_P(SegmentsTest, EqualTheScalarDefinitionHoweverTheyAreCut) {
  for (const QuantSpec& spec : SpecsOf(std::get<0>(GetParam())->info)) {
    for (seed_ = 1; seed_ <= 4; ++seed_) {
      rng_.seed(seed_);
      for (const ValueKind kind : {ValueKind::kNormal, ValueKind::kTies, ValueKind::kWide,
                                   ValueKind::kTiny, ValueKind::kZero}) {
        CheckTensor<float>(spec, {3, 4352}, kind);
        CheckTensor<float>(spec, {5, 1000 + 7}, kind);
        CheckTensor<double>(spec, {2, 1280}, kind);
        CheckTensor<double>(spec, {1, 301}, kind);
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_GT(checked_, 0);
}

INSTANTIATE_TEST_SUITE_P(
    SchemesAndTargets, SegmentsTest,
    ::testing::Combine(::testing::ValuesIn(AllSchemes().begin(), AllSchemes().end()),
                       ::testing::ValuesIn(SupportedSimdTargets())),
    [](const ::testing::TestParamInfo<SegmentsTest::ParamType>& info) {
      return absl::StrCat(std::get<0>(info.param)->info.name, "_", std::get<1>(info.param));
    });

}  // namespace
}  // namespace quantd
