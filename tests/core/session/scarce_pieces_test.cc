// A client that has one place for its chunks waits for it: whatever lies there is let go of when
// there is nothing more to be done, wherever stripes end.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/calibration.h"
#include "core/session/dequantize_session.h"
#include "core/session/quantize_session.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::MakeTensor;
using testing::MakeValues;

struct Case {
  const char* name;
  const char* spec;
  std::vector<int64_t> dims;
};

class ScarcePiecesTest : public ::testing::TestWithParam<Case> {
 protected:
  // Gives all of `bytes` through one place of `place_bytes`, by `push`.
  template <typename Push>
  static void PushThroughOnePlace(std::span<const std::byte> bytes, size_t place_bytes,
                                  StripeSession& session, Push push) {
    for (size_t at = 0; at < bytes.size(); at += place_bytes) {
      const auto part = bytes.subspan(at, std::min(place_bytes, bytes.size() - at));
      auto place = std::make_shared<std::vector<std::byte>>(part.begin(), part.end());
      const std::weak_ptr<const void> watch = place;
      Piece piece;
      piece.bytes = *place;
      piece.scarce = true;
      piece.keeper = std::move(place);
      push(std::move(piece));
      session.Await();
      ASSERT_TRUE(watch.expired()) << "the place at byte " << at << " of " << bytes.size();
    }
    session.EndInput();
    session.Await();
  }

  const TensorDesc tensor_ = MakeTensor("t", DType::kF32, GetParam().dims);
  const QuantSpec spec_ = *ParseSpec(GetParam().spec);
  const std::vector<std::byte> values_ = MakeValues(tensor_, testing::ValueKind::kNormal, 5);
};

TEST_P(ScarcePiecesTest, AreLetGoOf) {
  for (const int workers : {0, 2}) {
    for (const size_t place_bytes : {size_t{262'144}, size_t{100'000}, size_t{1} << 20}) {
      SCOPED_TRACE(absl::StrCat(workers, " workers"));
      Bench bench(workers);
      const QuantizedTensor whole = *QuantizeAll(spec_, tensor_, values_, {}, bench.context());
      std::vector<std::vector<std::byte>> planes = whole.planes;
      for (std::vector<std::byte>& plane : planes) {
        std::fill(plane.begin(), plane.end(), std::byte{});
      }
      {
        SpanSink sink({planes.begin(), planes.end()});
        const auto session = *QuantizeSession::Create(whole.plan, {}, sink, bench.context());
        PushThroughOnePlace(values_, place_bytes, *session,
                            [&](Piece piece) { session->Push(std::move(piece)); });
        ASSERT_TRUE(session->Finish().ok()) << session->status();
        EXPECT_EQ(planes, whole.planes);
      }
      {
        std::vector<std::byte> decoded(values_.size());
        SpanSink sink({decoded});
        const auto session =
            *DequantizeSession::Create(whole.plan, DType::kF32, sink, bench.context());
        for (size_t plane = planes.size(); plane-- > 1;) {
          session->Push(static_cast<int>(plane), {planes[plane], nullptr});
        }
        PushThroughOnePlace(planes[0], place_bytes / 4, *session,
                            [&](Piece piece) { session->Push(0, std::move(piece)); });
        EXPECT_TRUE(session->Finish().ok()) << session->status();
      }
      {
        const auto session = *CalibrationSession::Create(whole.plan, {}, bench.context());
        PushThroughOnePlace(values_, place_bytes, *session,
                            [&](Piece piece) { session->Push(std::move(piece)); });
        EXPECT_TRUE(session->Finish().ok()) << session->status();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ScarcePiecesTest,
                         ::testing::Values(Case{"rows", "int8:axis=0", {9, 30'000}},
                                           Case{"long_rows", "int8:axis=0", {3, 100'000}},
                                           Case{"tensor", "int8", {300'000}},
                                           Case{"given", "uint4:scale=0.1", {300'001}},
                                           Case{"trailers", "fbgemm_rowwise8", {9, 30'000}}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quantd
