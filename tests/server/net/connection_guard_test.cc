#include "server/net/connection_guard.h"

#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "tests/server/net/raw_frames.h"

namespace quantd::testing {
namespace {

constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

// A guard with a clock that stands still unless it is moved.
class Guarded {
 public:
  explicit Guarded(std::atomic<int64_t>* total = nullptr)
      : guard_(limits_, total != nullptr ? *total : own_total_, [this] { ++resumed_; }) {
    EXPECT_FALSE(Receive(absl::StrCat(kPreface, Frame(kSettingsFrame, 0, 0, ""))));
    guard_.Sent(Frame(kSettingsFrame, 0, 0, ""));
    guard_.Sent(Frame(kSettingsFrame, kAckFlag, 0, ""));
  }
  std::optional<GuardReason> Receive(absl::string_view bytes) {
    return guard_.Received(bytes, now_);
  }
  std::optional<GuardReason> Call(absl::string_view block) {
    stream_ += 2;
    return Receive(Frame(kHeadersFrame, kEndHeadersFlag, stream_, block));
  }
  // An accepted call, answered at once.
  void Prove() {
    EXPECT_FALSE(Call("\x82"));
    guard_.LetIn();
    guard_.Answered();
    guard_.Sent(Frame(kHeadersFrame, kEndStreamFlag, stream_, "x"));
  }
  void Sleep(absl::Duration time) { now_ += time; }

  ConnectionGuard& guard() { return guard_; }
  uint32_t stream() const { return stream_; }
  int resumed() const { return resumed_; }

 private:
  const GuardLimits limits_;
  std::atomic<int64_t> own_total_ = 0;
  int resumed_ = 0;
  absl::Time now_ = absl::UnixEpoch();
  uint32_t stream_ = static_cast<uint32_t>(-1);
  ConnectionGuard guard_;
};

TEST(ConnectionGuard, EndsHeaderBlocksThatAreTooLongHoweverTheyAreFramed) {
  Guarded one;
  EXPECT_FALSE(one.Call(std::string(1, '\0') + Text("k") + "\x7f\x80\x7f" +
                        std::string((32 << 10) - 100, 'v')));
  EXPECT_EQ(one.Call(std::string(1, '\0') + Text("k") + "\x7f\x80\xff\x7f" +
                     std::string(32 << 10, 'v')),
            GuardReason::kHeaders);

  Guarded continued;
  EXPECT_FALSE(continued.Receive(Frame(kHeadersFrame, 0, 1, Field("a", "b"))));
  int frames = 1;
  while (!continued.Receive(Frame(kContinuationFrame, 0, 1, Field("a", std::string(150, 'b'))))) {
    ASSERT_LT(++frames, 300);
  }
  EXPECT_GT(frames, 200);
}

// However a system call gives the bytes, they are judged together.
TEST(ConnectionGuard, TakesPiecesAsOne) {
  Guarded peer;
  peer.Prove();
  const std::string data = Frame(kDataFrame, 0, peer.stream(), std::string(4000, 'd'));
  const absl::string_view whole = data;
  const std::vector<absl::string_view> pieces = {whole.substr(0, 4), whole.substr(4, 6),
                                                 whole.substr(10)};
  EXPECT_FALSE(peer.guard().Received(pieces, absl::UnixEpoch()));
  EXPECT_EQ(peer.guard().MayReceive(), size_t{16384});
  const std::string reset = Frame(kResetFrame, 0, peer.stream(), "1234");
  const std::vector<absl::string_view> resets(300, reset);
  EXPECT_EQ(peer.guard().Received(resets, absl::UnixEpoch()), GuardReason::kResets);
}

TEST(ConnectionGuard, EndsBlocksOfTooManyFields) {
  Guarded peer;
  EXPECT_FALSE(peer.Call(std::string(256, '\xbe')));
  EXPECT_EQ(peer.Call(std::string(257, '\xbe')), GuardReason::kHeaders);
  // Trailers are blocks too, and those of streams that nobody knows.
  Guarded trailers;
  EXPECT_FALSE(trailers.Call("\x82"));
  EXPECT_EQ(trailers.Receive(Frame(kHeadersFrame, 0, trailers.stream(), std::string(257, '\xbe'))),
            GuardReason::kHeaders);
  Guarded unknown;
  EXPECT_EQ(unknown.Receive(Frame(kHeadersFrame, 0, 0, std::string(257, '\xbe'))),
            GuardReason::kHeaders);
}

TEST(ConnectionGuard, TakesPriorityAndNoPaddingInHeaders) {
  Guarded peer;
  EXPECT_FALSE(peer.Receive(Frame(kHeadersFrame, kPriorityFlag | kEndHeadersFlag, 1,
                                  absl::StrCat("12345", std::string(256, '\xbe')))));
  EXPECT_EQ(peer.Receive(Frame(kHeadersFrame, kPaddedFlag | kEndHeadersFlag, 3, "x\x82")),
            GuardReason::kHeaders);
}

TEST(ConnectionGuard, EndsRapidResets) {
  for (const bool is_proven : {false, true}) {
    Guarded peer;
    if (is_proven) peer.Prove();
    const auto open_and_reset = [&] {
      if (const auto reason = peer.Call("\x82")) return reason;
      return peer.Receive(Reset(peer.stream()));
    };
    const int burst = is_proven ? 200 : 20;
    for (int i = 0; i < burst; ++i) ASSERT_FALSE(open_and_reset()) << i;
    peer.Sleep(absl::Seconds(1));  // 100 more
    for (int i = 0; i < std::min(burst, 100); ++i) ASSERT_FALSE(open_and_reset()) << i;
    EXPECT_EQ(open_and_reset(), GuardReason::kResets);
    EXPECT_EQ(open_and_reset(), GuardReason::kResets) << "it ends once and for all";
  }
}

TEST(ConnectionGuard, BearsAClockThatIsSetBack) {
  Guarded peer;
  peer.Prove();
  for (int i = 0; i < 10; ++i) {
    ASSERT_FALSE(peer.Call("\x82"));
    ASSERT_FALSE(peer.Receive(Reset(peer.stream()))) << i;
    peer.Sleep(-absl::Hours(1));
  }
}

TEST(ConnectionGuard, EndsPeersThatTakeNoAnswers) {
  for (const uint8_t type : {kSettingsFrame, kPingFrame}) {
    Guarded peer;
    for (int i = 0; i < 5000; ++i) {  // each is answered
      ASSERT_FALSE(peer.Receive(Frame(type, 0, 0, "")));
      peer.guard().Sent(Frame(type, kAckFlag, 0, ""));
      peer.Sleep(absl::Milliseconds(1));
    }
    for (int i = 0; i < 5000; ++i) {  // acknowledgements owe nothing
      ASSERT_FALSE(peer.Receive(Frame(type, kAckFlag, 0, "")));
      peer.Sleep(absl::Milliseconds(1));
    }
    for (int i = 0; i < 1000; ++i) ASSERT_FALSE(peer.Receive(Frame(type, 0, 0, "")));
    EXPECT_EQ(peer.Receive(Frame(type, 0, 0, "")), GuardReason::kAnswers);
  }
}

// Each kind, as fast as it can come.
TEST(ConnectionGuard, EndsFloodsOfFramesThatBringNothing) {
  constexpr uint8_t kUnknownFrame = 77;
  for (const bool is_proven : {false, true}) {
    const uint8_t types[] = {kDataFrame, kPriorityFrame, kWindowUpdateFrame, kContinuationFrame,
                             kUnknownFrame};
    for (const uint8_t type : types) {
      Guarded peer;
      if (is_proven) peer.Prove();
      const auto send = [&] {
        const bool is_empty = type == kDataFrame || type == kContinuationFrame;
        return peer.Receive(Frame(type, 0, 1, is_empty ? "" : "12345"));
      };
      // SETTINGS were the first, which a call made up for.
      const int burst = is_proven ? 20'000 : 2'000 - 1;
      for (int i = 0; i < burst; ++i) ASSERT_FALSE(send()) << i;
      peer.Sleep(absl::Milliseconds(500));
      for (int i = 0; i < 1'000; ++i) ASSERT_FALSE(send()) << i;
      EXPECT_EQ(send(), GuardReason::kIdleFrames);
    }
  }
}

TEST(ConnectionGuard, BearsFramesThatBringNothingBesideThoseThatDo) {
  const std::string update = Frame(kWindowUpdateFrame, 0, 0, "1234");
  Guarded receiver, sender;
  receiver.Prove();
  sender.Prove();
  for (int i = 0; i < 100'000; ++i) {  // no time passes
    receiver.guard().Sent(Frame(kDataFrame, 0, receiver.stream(), "data"));
    ASSERT_FALSE(sender.Receive(Frame(kDataFrame, 0, sender.stream(), "data")));
    for (Guarded* peer : {&receiver, &sender}) {
      for (int k = 0; k < 4; ++k) ASSERT_FALSE(peer->Receive(update)) << i;
    }
  }
}

TEST(ConnectionGuard, HoldsCallsBackUntilThoseBeforeAreDecided) {
  Guarded peer;
  EXPECT_EQ(peer.guard().MayReceive(), size_t{1024});
  for (int i = 0; i < 8; ++i) ASSERT_FALSE(peer.Call("\x82"));
  EXPECT_EQ(peer.guard().pending_calls(), 8);
  EXPECT_EQ(peer.guard().MayReceive(), size_t{0});
  // One is refused: headers that end the stream.
  EXPECT_EQ(peer.resumed(), 0);
  peer.guard().Sent(Frame(kHeadersFrame, kEndHeadersFlag | kEndStreamFlag, 1, "x"));
  EXPECT_EQ(peer.resumed(), 1);
  EXPECT_EQ(peer.guard().MayReceive(), size_t{1024});
  ASSERT_FALSE(peer.Call("\x82"));
  EXPECT_EQ(peer.guard().MayReceive(), size_t{0});
  // Another is let in: it counts no more, while it runs and after that.
  peer.guard().LetIn();
  EXPECT_EQ(peer.resumed(), 2);
  EXPECT_EQ(peer.guard().MayReceive(), size_t{4096});
  ASSERT_FALSE(peer.Call("\x82"));
  EXPECT_EQ(peer.guard().pending_calls(), 8);
  peer.guard().Answered();
  EXPECT_EQ(peer.guard().pending_calls(), 9) << "until the answer has gone out";
  peer.guard().Sent(Frame(kHeadersFrame, kEndHeadersFlag, 3, "x"));
  EXPECT_EQ(peer.guard().pending_calls(), 8);
  // One of another service goes on, and has an answer.
  EXPECT_EQ(peer.guard().MayReceive(), size_t{0});
  peer.guard().Sent(Frame(kHeadersFrame, kEndHeadersFlag, 5, "x"));
  EXPECT_EQ(peer.resumed(), 3);
  EXPECT_EQ(peer.guard().pending_calls(), 7);
}

TEST(ConnectionGuard, HoldsCallsBackWhileRefusedOnesAreNotGone) {
  Guarded peer;
  for (int i = 0; i < 8; ++i) {
    ASSERT_FALSE(peer.Call("\x82"));
    peer.guard().Refused();
    peer.guard().Sent(Frame(kHeadersFrame, kEndHeadersFlag | kEndStreamFlag, peer.stream(), "x"));
  }
  EXPECT_EQ(peer.guard().pending_calls(), 8);
  EXPECT_EQ(peer.guard().MayReceive(), size_t{0});
  peer.guard().RefusedIsGone();
  EXPECT_EQ(peer.resumed(), 1);
  EXPECT_EQ(peer.guard().MayReceive(), size_t{1024});
}

// Only whoever sends data is read in large pieces.
TEST(ConnectionGuard, ReadsMuchAtOnceWhereDataComes) {
  Guarded peer;
  peer.Prove();
  const auto receive_data = [&] {
    EXPECT_FALSE(peer.Receive(Frame(kDataFrame, 0, peer.stream(), std::string(4000, 'd'))));
    return peer.guard().MayReceive();
  };
  EXPECT_EQ(peer.guard().MayReceive(), size_t{4096});
  EXPECT_EQ(receive_data(), size_t{16384});
  EXPECT_EQ(receive_data(), size_t{65536});
  EXPECT_EQ(receive_data(), size_t{1} << 18);
  EXPECT_EQ(receive_data(), kNoLimit);
  EXPECT_EQ(receive_data(), kNoLimit);
  peer.Prove();  // a call beside it
  EXPECT_EQ(peer.guard().MayReceive(), size_t{1} << 18);
  EXPECT_EQ(receive_data(), kNoLimit);
  for (int i = 0; i < 10; ++i) peer.Prove();
  EXPECT_EQ(peer.guard().MayReceive(), size_t{4096});
}

TEST(ConnectionGuard, WakesNobodyWhomItHasNotHeldBack) {
  Guarded peer;
  for (int i = 0; i < 100; ++i) peer.Prove();
  EXPECT_EQ(peer.resumed(), 0);
  EXPECT_EQ(peer.guard().pending_calls(), 0);
}

// What is not whole cannot be decided about, and would wait for ever.
TEST(ConnectionGuard, NeverHoldsTheRestOfHeadersBackForTheirOwnSake) {
  Guarded peer;
  for (int i = 0; i < 200; ++i) {  // calls that are let in, and run
    ASSERT_FALSE(peer.Call(Field("k", std::string(240, 'v'))));
    peer.guard().LetIn();
  }
  const std::string call = Frame(kHeadersFrame, 0, 1001, Field("k", std::string(240, 'v'))) +
                           Frame(kContinuationFrame, kEndHeadersFlag, 1001, "");
  for (const char byte : call) {
    EXPECT_EQ(peer.guard().pending_calls(), 0);
    ASSERT_GT(peer.guard().MayReceive(), size_t{0});
    ASSERT_FALSE(peer.Receive(absl::string_view(&byte, 1)));
  }
  EXPECT_EQ(peer.guard().pending_calls(), 1);
  EXPECT_GT(peer.guard().MayReceive(), size_t{0});
}

TEST(ConnectionGuard, HoldsLongHeadersBack) {
  Guarded peer;
  const std::string block = std::string(1, '\0') + Text("k") + "\x7f\x80\x7f" +
                            std::string(20'000, 'v');  // its value goes on
  ASSERT_FALSE(peer.Call(block));
  EXPECT_GT(peer.guard().MayReceive(), size_t{0});
  ASSERT_FALSE(peer.Call(block));
  EXPECT_EQ(peer.guard().MayReceive(), size_t{0});
  peer.guard().Sent(Frame(kResetFrame, 0, 1, "1234"));
  EXPECT_EQ(peer.resumed(), 1);
}

TEST(ConnectionGuard, EndsCallsThatComeAtOnceBeyondAllMeasure) {
  std::string calls;
  for (uint32_t stream = 1; stream < 2 * 1088; stream += 2) {
    calls += Frame(kHeadersFrame, kEndHeadersFlag, stream, "\x82");
  }
  Guarded peer;
  EXPECT_FALSE(peer.Receive(calls));
  EXPECT_EQ(peer.Receive(Frame(kHeadersFrame, kEndHeadersFlag, 5001, "\x82")), GuardReason::kCalls);
}

TEST(ConnectionGuard, EndsThoseWithManyCallsWhereAllTogetherHaveTooMany) {
  std::atomic<int64_t> total = 0;
  std::string calls;
  for (uint32_t stream = 1; stream < 2 * 1000; stream += 2) {
    calls += Frame(kHeadersFrame, kEndHeadersFlag, stream, "\x82");
  }
  {
    Guarded a(&total), b(&total), c(&total), small(&total);
    EXPECT_FALSE(a.Receive(calls));
    EXPECT_FALSE(b.Receive(calls));
    EXPECT_EQ(total, 2000);
    EXPECT_EQ(c.Receive(calls), GuardReason::kCalls);
    EXPECT_FALSE(small.Call("\x82"));
  }
  EXPECT_EQ(total, 0);
}

// Calls that are answered, but never end.
TEST(ConnectionGuard, EndsTooManyOpenCalls) {
  Guarded peer;
  std::optional<GuardReason> reason;
  int calls = 0;
  while (!reason && calls < 5000) {
    reason = peer.Call("\x82");
    ++calls;
    peer.guard().Sent(Frame(kHeadersFrame, kEndHeadersFlag, peer.stream(), "x"));
  }
  EXPECT_EQ(reason, GuardReason::kCalls);
  EXPECT_GT(calls, 1024);
}

}  // namespace
}  // namespace quantd::testing
