// Quantizing while the sink, the input or the caller gets in the way: what is written is right all
// the same, what is not is said, and all memory comes back.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/stripes.h"
#include "tests/support/cuts.h"
#include "tests/support/faulty_sink.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::CutSizes;
using testing::FaultySink;
using testing::Fingerprint;
using testing::LendCopy;
using testing::MakeTensor;
using testing::MakeValues;
using testing::PlaneBytes;
using testing::QuantizeCut;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;
constexpr int64_t kPieceBytes = 150'001;  // ends in the middle of values and of stripes

struct Case {
  const char* name;
  const char* spec;
  std::vector<int64_t> dims;
};

class SessionFaultsTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    tensor_ = MakeTensor("t", DType::kF32, GetParam().dims);
    spec_ = *ParseSpec(GetParam().spec);
    values_ = MakeValues(tensor_, ValueKind::kNormal, 31);
    Bench bench(0);
    auto expected =
        QuantizeCut(spec_, tensor_, values_, Cut::kWhole, {}, kPlenty, bench.context());
    ASSERT_TRUE(expected.ok()) << expected.status();
    expected_ = *std::move(expected);
    for (StripeCutter cutter(layout(), num_elems()); !cutter.done(); cutter.Next()) ++stripes_;
    ASSERT_GE(stripes_, 4);
  }

  const PackedLayout& layout() const { return expected_.plan.resolved.layout; }
  int64_t num_elems() const { return tensor_.shape.num_elems(); }

  // One run: everything that is shared, a sink and a session.
  struct Run {
    Run(const SessionFaultsTest& test, int workers)
        : bench(workers),
          plan(*MakePlan(test.spec_, test.tensor_, kPlenty, {.threads = workers + 1})),
          sink(PlaneBytes(plan.resolved.layout)),
          session(*QuantizeSession::Create(plan, {}, sink, bench.context())) {}

    Bench bench;
    const Plan plan;
    FaultySink sink;
    std::unique_ptr<QuantizeSession> session;
  };

  // Calls fn(piece) for the tensor's pieces, lent.
  template <typename Fn>
  void ForEachPiece(Fn fn) const {
    for (std::span<const std::byte> left = values_; !left.empty();) {
      const auto piece = left.first(std::min<size_t>(kPieceBytes, left.size()));
      left = left.subspan(piece.size());
      fn(LendCopy(piece));
    }
  }
  void PushAll(QuantizeSession& session) const {
    ForEachPiece([&](Piece piece) {
      session.Push(std::move(piece));
      while (!session.WantsInput() && session.Help()) {
      }
    });
    session.EndInput();
  }

  void ExpectUndisturbed(Run& run) const {
    EXPECT_TRUE(run.session->ended());
    const absl::StatusOr<EncodingReport> report = run.session->Finish();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(run.sink.in_order);
    QuantizedTensor result = {run.plan, run.sink.planes, *report};
    result.plan.resolved = expected_.plan.resolved;
    EXPECT_EQ(Fingerprint(result), Fingerprint(expected_));
    ExpectAllGivenBack(run);
  }
  void ExpectAllGivenBack(Run& run) const {
    run.session.reset();
    EXPECT_EQ(run.bench.budget.used_bytes(), 0);
  }
  // What is written is the beginning of what is right.
  void ExpectRightBeginning(const Run& run) const {
    EXPECT_TRUE(run.sink.in_order);
    const int64_t written = run.sink.committed_bytes;
    EXPECT_TRUE(std::equal(run.sink.planes[0].begin(), run.sink.planes[0].begin() + written,
                           expected_.planes[0].begin()));
  }
  // The codes of the stripes that can be encoded from so many bytes of input.
  int64_t CompleteCodeBytes(const Plan& plan, int64_t input_bytes) const {
    int64_t end = 0;
    for (StripeCutter cutter(layout(), num_elems()); !cutter.done(); cutter.Next()) {
      const Stripe& stripe = cutter.stripe();
      int64_t needed = stripe.end;
      if (plan.pass == Pass::kBuffered) needed = num_elems();
      if (plan.pass == Pass::kLocal) needed = stripe.long_band() ? stripe.band_end : stripe.end;
      if (needed * SizeOf(tensor_.dtype) <= input_bytes) end = stripe.end;
    }
    return layout().CodeOffset(end);
  }

  QuantSpec spec_;
  TensorDesc tensor_;
  std::vector<std::byte> values_;
  QuantizedTensor expected_;
  int64_t stripes_ = 0;
};

TEST_P(SessionFaultsTest, TheNthMemoryIsRefused) {
  for (const int workers : {0, 2}) {
    for (int64_t n = 1; n <= stripes_; ++n) {
      SCOPED_TRACE(absl::StrCat(n, " of ", stripes_, ", ", workers, " workers"));
      Run run(*this, workers);
      run.sink.has_memory = [n](int64_t attempt) { return attempt != n; };
      PushAll(*run.session);
      run.session->Await();
      EXPECT_FALSE(run.session->ended());
      EXPECT_EQ(run.sink.committed, n - 1);  // nothing gets past
      run.session->Ready();
      run.session->Await();
      ExpectUndisturbed(run);
    }
  }
}

// Each stripe is refused twice, and another thread says when there is memory again.
TEST_P(SessionFaultsTest, MemoryComesLateForEveryStripe) {
  for (const int workers : {0, 1, 3}) {
    Run run(*this, workers);
    std::counting_semaphore<> refused(0);
    run.sink.has_memory = [&](int64_t attempt) {
      if (attempt % 3 == 0) return true;
      refused.release();
      return false;
    };
    std::thread ready([&] {
      for (int64_t i = 0; i < 2 * stripes_; ++i) {
        refused.acquire();
        run.session->Ready();
      }
    });
    PushAll(*run.session);
    while (!run.session->ended()) run.session->Await();
    ready.join();
    EXPECT_EQ(run.sink.attempts, 3 * stripes_);
    ExpectUndisturbed(run);
  }
}

// A sink that takes one stripe at a time: it has memory again when that is committed.
TEST_P(SessionFaultsTest, MemoryOfOneStripeAtATime) {
  for (const int workers : {0, 3}) {
    Run run(*this, workers);
    run.sink.has_memory = [&](int64_t) { return run.sink.acquired == run.sink.committed; };
    run.sink.on_commit = [&](int64_t) { run.session->Ready(); };
    PushAll(*run.session);
    while (!run.session->ended()) run.session->Await();
    ExpectUndisturbed(run);
  }
}

TEST_P(SessionFaultsTest, ASlowSink) {
  Run run(*this, 3);
  run.sink.on_commit = [&](int64_t) {
    for (int i = 0; i < 20; ++i) std::this_thread::yield();
  };
  PushAll(*run.session);
  run.session->Await();
  ExpectUndisturbed(run);
}

// Whoever lets the piece go that is one stripe's last has more to do than to encode ten others.
TEST_P(SessionFaultsTest, OneStripeIsSlow) {
  for (const int slow : {0, 1, 3, 6}) {
    Run run(*this, 3);
    int pieces = 0;
    ForEachPiece([&](Piece piece) {
      if (pieces++ == slow) {
        piece.keeper = std::shared_ptr<const void>(
            piece.keeper.get(), [owner = piece.keeper](const void*) {
              for (std::atomic<int> i = 0; i < 2'000'000; ++i) {
              }
            });
      }
      run.session->Push(std::move(piece));
    });
    run.session->EndInput();
    run.session->Await();
    ExpectUndisturbed(run);
  }
}

enum class Fault { kCancel, kFailInput, kDestroy };

// Strikes after every push, every help, and the input's end, one after the other.
TEST_P(SessionFaultsTest, AtEveryPoint) {
  for (const Fault fault : {Fault::kCancel, Fault::kFailInput, Fault::kDestroy}) {
    for (const int workers : {0, 2}) {
      int64_t points = 1;
      for (int64_t struck = 0; struck < points; ++struck) {
        SCOPED_TRACE(absl::StrCat("fault ", static_cast<int>(fault), " at ", struck, ", ", workers,
                                  " workers"));
        Run run(*this, workers);
        int64_t point = 0, pushed_bytes = 0, received_bytes = -1;
        bool had_ended = false;
        const auto strike = [&] {
          if (point++ != struck || run.session == nullptr) return;
          had_ended = run.session->ended();
          received_bytes = pushed_bytes;
          if (fault == Fault::kCancel) run.session->Cancel(absl::CancelledError("enough"));
          if (fault == Fault::kFailInput) run.session->FailInput(absl::UnavailableError("lost"));
          if (fault == Fault::kDestroy) run.session.reset();
        };
        const auto help = [&] {
          while (run.session != nullptr && run.session->Help()) strike();
        };
        strike();
        ForEachPiece([&](Piece piece) {
          if (run.session == nullptr) return;
          pushed_bytes += static_cast<int64_t>(piece.bytes.size());
          run.session->Push(std::move(piece));
          strike();
          help();
        });
        if (run.session != nullptr) run.session->EndInput();
        strike();
        help();
        points = std::max(points, point);
        if (run.session == nullptr) {
          ExpectRightBeginning(run);
          ExpectAllGivenBack(run);
          continue;
        }
        run.session->Await();
        if (received_bytes < 0 || (had_ended && fault == Fault::kCancel)) {
          ExpectUndisturbed(run);
          continue;
        }
        EXPECT_TRUE(run.session->ended());
        EXPECT_EQ(run.session->Finish().status(), run.session->status());
        EXPECT_EQ(run.session->status(), fault == Fault::kCancel ? absl::CancelledError("enough")
                                                                 : absl::UnavailableError("lost"));
        if (fault == Fault::kFailInput) {  // told behind the stripes that came before it
          EXPECT_EQ(run.sink.committed_bytes, CompleteCodeBytes(run.plan, received_bytes));
        }
        ExpectRightBeginning(run);
        ExpectAllGivenBack(run);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SessionFaultsTest,
    ::testing::Values(Case{"static", "int8:scale=0.01", {300'001}},
                      Case{"rows", "int8:axis=0", {300, 1001}},
                      Case{"long_rows", "int8:axis=0", {4, 90'001}},
                      Case{"ragged", "uint4:group=32767,tail=short", {6, 50'001}},
                      Case{"long_blocks", "int8:block=100x1,tail=short", {150, 2001}},
                      Case{"tensor", "int8", {300'001}},
                      Case{"columns", "int8:axis=-1", {300, 1001}},
                      Case{"tensor_and_blocks", "nvfp4", {300, 1024}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quantd
