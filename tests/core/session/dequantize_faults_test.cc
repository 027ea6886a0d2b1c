// Dequantizing and calibrating while the sink, the input or the caller gets in the way.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/stripes.h"
#include "tests/support/cuts.h"
#include "tests/support/faulty_sink.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::CalibrateCut;
using testing::Cut;
using testing::DequantizeCut;
using testing::FaultySink;
using testing::LendCopy;
using testing::MakeTensor;
using testing::MakeValues;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;
constexpr size_t kPieceBytes = 40'003;

enum class Fault { kCancel, kFailInput, kDestroy };
constexpr Fault kFaults[] = {Fault::kCancel, Fault::kFailInput, Fault::kDestroy};

// A piece of a plane, or of values, which are plane 0.
struct Part {
  int plane;
  std::span<const std::byte> bytes;
};

std::vector<Part> PartsOf(const std::vector<std::vector<std::byte>>& planes) {
  std::vector<Part> parts;
  for (size_t plane = planes.size(); plane-- > 0;) {  // codes last
    for (std::span<const std::byte> left = planes[plane]; !left.empty();) {
      parts.push_back({static_cast<int>(plane), left.first(std::min(kPieceBytes, left.size()))});
      left = left.subspan(parts.back().bytes.size());
    }
  }
  return parts;
}

void PushTo(DequantizeSession& session, const Part& part) {
  session.Push(part.plane, LendCopy(part.bytes));
}
void PushTo(CalibrationSession& session, const Part& part) { session.Push(LendCopy(part.bytes)); }

// Feeds the session, and strikes at point `struck`: after every push, help and the end. Returns how
// many points there were; `session` may be gone. `had_ended`: before the strike; absent: there was
// none.
template <typename Session>
int64_t FeedAndStrike(std::unique_ptr<Session>& session, const std::vector<Part>& parts,
                      Fault fault, int64_t struck, std::optional<bool>& had_ended) {
  int64_t point = 0;
  const auto strike = [&] {
    if (point++ != struck || session == nullptr) return;
    had_ended = session->ended();
    if (fault == Fault::kCancel) session->Cancel(absl::CancelledError("enough"));
    if (fault == Fault::kFailInput) session->FailInput(absl::UnavailableError("lost"));
    if (fault == Fault::kDestroy) session.reset();
  };
  const auto help = [&] {
    while (session != nullptr && session->Help()) strike();
  };
  strike();
  for (const Part& part : parts) {
    if (session == nullptr) return point;
    PushTo(*session, part);
    strike();
    help();
  }
  if (session != nullptr) session->EndInput();
  strike();
  help();
  if (session != nullptr) session->Await();
  return point;
}

template <typename Session>
void ExpectFailed(Session& session, Fault fault) {
  EXPECT_TRUE(session.ended());
  EXPECT_EQ(session.status(), fault == Fault::kCancel ? absl::CancelledError("enough")
                                                      : absl::UnavailableError("lost"));
  EXPECT_EQ(session.Finish().status(), session.status());
}

class DequantizeFaultsTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const TensorDesc tensor = MakeTensor("t", DType::kF32, {300, 1024});
    Bench bench(0);
    tensor_ = *QuantizeAll(*ParseSpec(GetParam()), tensor,
                           MakeValues(tensor, ValueKind::kNormal, 8), {}, bench.context());
    expected_ = *DequantizeCut(tensor_, DType::kF32, Cut::kWhole, bench.context());
    parts_ = PartsOf(tensor_.planes);
  }
  void ExpectRightBeginning(const FaultySink& sink) const {
    EXPECT_TRUE(sink.in_order);
    EXPECT_TRUE(std::equal(expected_.begin(), expected_.begin() + sink.committed_bytes,
                           sink.planes[0].begin()));
  }

  QuantizedTensor tensor_;
  std::vector<std::byte> expected_;
  std::vector<Part> parts_;
};

TEST_P(DequantizeFaultsTest, TheNthMemoryIsRefused) {
  for (const int workers : {0, 2}) {
    for (int64_t n = 1; n <= CeilDiv(300 * 1024, kStripeElems); ++n) {
      Bench bench(workers);
      FaultySink sink({std::ssize(expected_)});
      sink.has_memory = [n](int64_t attempt) { return attempt != n; };
      auto session =
          *DequantizeSession::Create(tensor_.plan, DType::kF32, sink, bench.context());
      std::optional<bool> had_ended;
      FeedAndStrike(session, parts_, Fault::kCancel, -1, had_ended);
      EXPECT_FALSE(session->ended());
      EXPECT_EQ(sink.committed, n - 1);
      session->Ready();
      session->Await();
      const auto report = session->Finish();
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(report->plane_digests, tensor_.report.digests);
      EXPECT_TRUE(sink.in_order && sink.planes[0] == expected_);
      session.reset();
      EXPECT_EQ(bench.budget.used_bytes(), 0);
    }
  }
}

TEST_P(DequantizeFaultsTest, AtEveryPoint) {
  for (const Fault fault : kFaults) {
    for (const int workers : {0, 2}) {
      int64_t points = 1;
      for (int64_t struck = 0; struck < points; ++struck) {
        SCOPED_TRACE(absl::StrCat("fault ", static_cast<int>(fault), " at ", struck, ", ", workers,
                                  " workers"));
        Bench bench(workers);
        FaultySink sink({std::ssize(expected_)});
        auto session =
            *DequantizeSession::Create(tensor_.plan, DType::kF32, sink, bench.context());
        std::optional<bool> had_ended;
        points = std::max(points, FeedAndStrike(session, parts_, fault, struck, had_ended));
        if (session != nullptr && (!had_ended || (*had_ended && fault == Fault::kCancel))) {
          EXPECT_TRUE(session->Finish().ok());
          EXPECT_EQ(sink.committed_bytes, std::ssize(expected_));
        } else if (session != nullptr) {
          ExpectFailed(*session, fault);
        }
        ExpectRightBeginning(sink);
        session.reset();
        EXPECT_EQ(bench.budget.used_bytes(), 0);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Specs, DequantizeFaultsTest,
                         ::testing::Values("int8", "int8:axis=0", "uint4:group=64", "q8_0",
                                           "nvfp4"),
                         [](const auto& info) { return absl::StrCat("spec", info.index); });

TEST(CalibrationFaultsTest, AtEveryPoint) {
  const CalibrationOptions options = {.histogram = true, .column_moments = true, .gram = true};
  for (const char* spec : {"int8", "int8:axis=0", "int8:axis=-1", "nvfp4"}) {
    const TensorDesc tensor = MakeTensor("t", DType::kF32, {3000, 64});
    const std::vector<std::vector<std::byte>> values = {
        MakeValues(tensor, ValueKind::kNonFinite, 9)};
    const std::vector<Part> parts = PartsOf(values);
    Bench quiet(0);
    const Plan plan = *MakePlan(*ParseSpec(spec), tensor, kPlenty, {.threads = 3});
    const CalibrationState expected =
        *CalibrateCut(plan, values[0], Cut::kWhole, options, quiet.context());
    for (const Fault fault : kFaults) {
      for (const int workers : {0, 2}) {
        int64_t points = 1;
        for (int64_t struck = 0; struck < points; ++struck) {
          SCOPED_TRACE(absl::StrCat(spec, ", fault ", static_cast<int>(fault), " at ", struck, ", ",
                                    workers, " workers"));
          Bench bench(workers);
          auto session = *CalibrationSession::Create(plan, options, bench.context());
          std::optional<bool> had_ended;
          points = std::max(points, FeedAndStrike(session, parts, fault, struck, had_ended));
          if (session != nullptr && (!had_ended || (*had_ended && fault == Fault::kCancel))) {
            const auto state = session->Finish();
            EXPECT_TRUE(state.ok() && *state == expected);
          } else if (session != nullptr) {
            ExpectFailed(*session, fault);
          }
          session.reset();
          EXPECT_EQ(bench.budget.used_bytes(), 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace quantd
