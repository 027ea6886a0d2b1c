#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
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
#include "tests/support/cuts.h"
#include "tests/support/golden_file.h"

// Bytes that other projects' code gave, kept in tests/golden: what our sessions have to give too.

namespace quantd {
namespace {

constexpr int64_t kBudgetBytes = int64_t{1} << 30;

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

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Decodes planes in the order that the wire has: parameters, then codes.
  absl::StatusOr<std::vector<std::byte>> Decode(const GoldenCase& golden, const Plan& plan,
                                                const std::vector<std::vector<std::byte>>& planes) {
    const int64_t values_bytes = golden.tensor.shape.num_elems() * SizeOf(DType::kF32);
    testing::MemorySink sink({values_bytes});
    absl::StatusOr<std::unique_ptr<DequantizeSession>> session =
        DequantizeSession::Create(plan, DType::kF32, sink, context_);
    if (!session.ok()) return session.status();
    for (size_t i = planes.size(); i-- > 0;) {
      (*session)->Push(static_cast<int>(i), {planes[i], nullptr});
    }
    (*session)->EndInput();
    (*session)->Await();
    const absl::StatusOr<DecodingReport> report = (*session)->Finish();
    if (!report.ok()) return report.status();
    EXPECT_EQ(report->values_digest, DigestOf(sink.planes[0])) << golden.name;
    return std::move(sink.planes[0]);
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
    QuantizeOptions options;
    options.importance = golden.importance;
    const absl::StatusOr<QuantizedTensor> result =
        QuantizeAll(spec, golden.tensor, golden.input, options, context_);
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

// Returns the folder of the golden files; tests/parity names another one than ours.
std::string GoldenFolder() {
  const char* const folder = std::getenv("QUANTD_GOLDEN_FOLDER");
  return folder != nullptr ? folder : QUANTD_TEST_GOLDEN;
}

// Returns the golden files' names without their ending, in order.
std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenFolder())) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<GoldenFile> Read(const std::string& name) {
  return ReadGoldenFile(absl::StrCat(GoldenFolder(), "/", name, ".safetensors"));
}

bool IsRegistered(const GoldenCase& golden) {
  return FindScheme(golden.spec.substr(0, golden.spec.find(':'))).ok();
}

TEST_P(GoldenTest, EqualsTheOriginatingProject) {
  const absl::StatusOr<GoldenFile> file = Read(GetParam());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(file->command.empty());
  ASSERT_FALSE(file->cases.empty());
  int skipped = 0;
  for (const GoldenCase& golden : file->cases) {
    SCOPED_TRACE(absl::StrCat(golden.name, ": ", golden.spec, " by ", file->source));
    if (!IsRegistered(golden)) {
      ++skipped;
      continue;
    }
    const absl::StatusOr<QuantSpec> spec = ParseSpec(golden.spec);
    ASSERT_TRUE(spec.ok()) << spec.status();
    if (golden.input.empty()) {
      CheckAllCodes(golden, *spec);
    } else {
      CheckEncoding(golden, *spec);
    }
  }
  RecordProperty("skipped_cases", skipped);
  if (skipped > 0) {
    GTEST_SKIP() << skipped << " of " << file->cases.size()
                 << " cases are of schemes that are not registered";
  }
}

TEST(GoldenFilesTest, EverySchemeHasACase) {
  std::set<std::string> covered;
  for (const std::string& name : GoldenNames()) {
    const absl::StatusOr<GoldenFile> file = Read(name);
    ASSERT_TRUE(file.ok()) << file.status();
    for (const GoldenCase& golden : file->cases) {
      covered.insert(golden.spec.substr(0, golden.spec.find(':')));
    }
  }
  for (const Scheme* scheme : AllSchemes()) {
    if (absl::StartsWith(scheme->info.source, "nobody else's")) continue;
    EXPECT_TRUE(covered.contains(std::string(scheme->info.name))) << scheme->info.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenTest, ::testing::ValuesIn(GoldenNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
