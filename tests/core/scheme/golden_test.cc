#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "core/exec/buffer_pool.h"
#include "core/exec/executor.h"
#include "core/exec/memory_budget.h"
#include "core/scheme/registry.h"
#include "core/scheme/spec.h"
#include "core/session/dequantize_session.h"
#include "core/session/quantize_session.h"
#include "gtest/gtest.h"
#include "tests/support/golden_file.h"

// Bytes that other projects' code gave, kept in tests/golden: what our sessions have to give too.

namespace quantd {
namespace {

constexpr int64_t kBudgetBytes = int64_t{1} << 30;

// Collects the values of a dequantized tensor.
class VectorSink : public PayloadSink {
 public:
  std::span<std::byte> Acquire(int, int64_t offset_bytes, int64_t size_bytes) override {
    bytes.resize(static_cast<size_t>(offset_bytes + size_bytes));
    return std::span(bytes).subspan(static_cast<size_t>(offset_bytes));
  }
  void Commit(int, int64_t, int64_t) override {}

  std::vector<std::byte> bytes;
};

// Says where two arrays of `elem_bytes` elements differ first; empty if they are equal.
std::string Difference(std::span<const std::byte> got, std::span<const std::byte> want,
                       size_t elem_bytes) {
  if (got.size() != want.size()) {
    return absl::StrCat(got.size(), " bytes, not ", want.size());
  }
  const auto at = std::mismatch(got.begin(), got.end(), want.begin()).first - got.begin();
  if (static_cast<size_t>(at) == got.size()) return "";
  const size_t elem = static_cast<size_t>(at) / elem_bytes;
  uint64_t got_bits = 0, want_bits = 0;
  std::memcpy(&got_bits, got.data() + elem * elem_bytes, elem_bytes);
  std::memcpy(&want_bits, want.data() + elem * elem_bytes, elem_bytes);
  return absl::StrCat("element ", elem, " is 0x", absl::Hex(got_bits), ", not 0x",
                      absl::Hex(want_bits));
}

class GoldenTest : public testing::TestWithParam<const Scheme*> {
 protected:
  // Decodes planes in the order that the wire has: parameters, then codes.
  absl::StatusOr<std::vector<std::byte>> Decode(const GoldenCase& golden, const Plan& plan,
                                                const std::vector<std::vector<std::byte>>& planes) {
    absl::StatusOr<std::unique_ptr<DequantizeSession>> session =
        DequantizeSession::Create(plan, DType::kF32, context_);
    if (!session.ok()) return session.status();
    VectorSink sink;
    for (size_t i = planes.size(); i-- > 0;) {
      std::span<const std::byte> left = planes[i];
      for (bool more = true; more || !left.empty();) {
        const absl::StatusOr<StepResult> step =
            (*session)->Step(static_cast<int>(i), left, sink, CancelToken());
        if (!step.ok()) return step.status();
        left = left.subspan(static_cast<size_t>(step->consumed_bytes));
        more = !step->wants_input;
      }
    }
    const absl::StatusOr<DecodingReport> report = (*session)->Finish();
    if (!report.ok()) return report.status();
    EXPECT_EQ(report->values_digest, DigestOf(sink.bytes)) << golden.name;
    return std::move(sink.bytes);
  }

  void CheckDecoding(const GoldenCase& golden, const Plan& plan,
                     const std::vector<std::vector<std::byte>>& planes) {
    if (golden.values.empty() && golden.values_sha256.empty()) return;
    const absl::StatusOr<std::vector<std::byte>> values = Decode(golden, plan, planes);
    ASSERT_TRUE(values.ok()) << values.status();
    if (golden.values_sha256.empty()) {
      EXPECT_EQ(Difference(*values, golden.values, 4), "") << "values";
    } else {
      EXPECT_EQ(Sha256Hex(*values), golden.values_sha256);
    }
  }

  void CheckEncoding(const GoldenCase& golden, const QuantSpec& spec) {
    const absl::StatusOr<QuantizedTensor> result =
        QuantizeAll(spec, golden.tensor, golden.input, QuantizeOptions(), context_);
    ASSERT_TRUE(result.ok()) << result.status();
    const std::vector<PlaneDesc>& planes = result->plan.resolved.layout.planes;
    size_t compared = 0;
    for (size_t i = 0; i < planes.size(); ++i) {
      EXPECT_EQ(result->report.digests[i], DigestOf(result->planes[i])) << planes[i].name;
      // What a scheme always writes the same, such as a code book, is in no golden file.
      if (planes[i].role == PlaneRole::kConstant && !golden.planes.contains(planes[i].name))
        continue;
      ASSERT_TRUE(golden.planes.contains(planes[i].name)) << planes[i].name;
      const size_t elem_bytes = static_cast<size_t>(SizeOf(planes[i].dtype));
      EXPECT_EQ(Difference(result->planes[i], golden.planes.at(planes[i].name), elem_bytes), "")
          << planes[i].name;
      ++compared;
    }
    EXPECT_EQ(compared, golden.planes.size());
    CheckDecoding(golden, result->plan, result->planes);
  }

  // Decodes the codes 0 ... 65535.
  void CheckAllCodes(const GoldenCase& golden, const QuantSpec& spec) {
    const absl::StatusOr<Plan> plan = MakePlan(spec, golden.tensor, kBudgetBytes);
    ASSERT_TRUE(plan.ok()) << plan.status();
    std::vector<uint16_t> codes(65536);
    std::iota(codes.begin(), codes.end(), uint16_t{0});
    const auto bytes = std::as_bytes(std::span(codes));
    CheckDecoding(golden, *plan, {std::vector<std::byte>(bytes.begin(), bytes.end())});
  }

  Executor executor_{1};
  BufferPool pool_{size_t{64} << 20};
  MemoryBudget budget_{kBudgetBytes};
  SessionContext context_{&executor_, &pool_, &budget_};
};

TEST_P(GoldenTest, EqualsTheOriginatingProject) {
  const std::string name(GetParam()->info.name);
  const absl::StatusOr<GoldenFile> file =
      ReadGoldenFile(absl::StrCat(QUANTD_TEST_GOLDEN "/", name, ".safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(file->command.empty());
  ASSERT_FALSE(file->cases.empty());
  for (const GoldenCase& golden : file->cases) {
    SCOPED_TRACE(absl::StrCat(golden.name, ": ", golden.spec, " by ", file->source));
    const absl::StatusOr<QuantSpec> spec = ParseSpec(golden.spec);
    ASSERT_TRUE(spec.ok()) << spec.status();
    if (golden.input.empty()) {
      CheckAllCodes(golden, *spec);
    } else {
      CheckEncoding(golden, *spec);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllSchemes, GoldenTest, testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param->info.name); });

}  // namespace
}  // namespace quantd
