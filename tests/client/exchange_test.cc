// The client's streams without gRPC: a port that a test moves by hand, in one thread.
#include "client/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/crc32c.h"
#include "core/base/digest.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Step = Exchange::Step;

// Says what a request is: "start 1", "chunk 1 @0 +100", "end 1".
std::string Describe(const grpc::ByteBuffer& message, const StreamMethod& method) {
  const ParsedFrame frame = ParseFrame(message, method.request).value();
  switch (frame.kind) {
    case FrameKind::kStart:
      return absl::StrCat("start ", frame.tensor_id);
    case FrameKind::kEnd:
      return absl::StrCat("end ", frame.tensor_id);
    case FrameKind::kChunk: {
      const int64_t size_bytes =
          frame.shared ? frame.shared->size_bytes : static_cast<int64_t>(frame.data_bytes);
      return absl::StrCat("chunk ", frame.tensor_id, " @", frame.offset, " +", size_bytes,
                          frame.shared ? " shared" : "");
    }
    case FrameKind::kNone:
    case FrameKind::kError:
    case FrameKind::kReleased:
      break;
  }
  return "something else";
}

// Does nothing by itself, and finds what a machine may not do.
class HandPort final : public StreamPort {
 public:
  explicit HandPort(const StreamMethod& method) : method_(method) {}

  void Read(grpc::ByteBuffer* message) override {
    EXPECT_EQ(reading, nullptr);
    EXPECT_FALSE(over);
    reading = message;
  }
  void Write(const grpc::ByteBuffer* message) override {
    EXPECT_EQ(writing, nullptr);
    EXPECT_FALSE(over || half_closed);
    writing = message;
    ++messages;
    Note(*message);
  }
  void WritesDone() override {
    EXPECT_EQ(writing, nullptr);
    EXPECT_FALSE(over || half_closed);
    half_closed = true;
  }
  void Cancel() override {
    EXPECT_FALSE(over || cancelled);
    cancelled = true;
  }

  grpc::ByteBuffer* reading = nullptr;
  const grpc::ByteBuffer* writing = nullptr;
  int messages = 0;
  std::vector<std::string> written;  // the frames of the messages
  std::vector<SharedRange> shared;  // what of it lies in shared memory
  bool half_closed = false, cancelled = false, over = false;

 private:
  void Note(const grpc::ByteBuffer& message) {
    const absl::StatusOr<ParsedFrame> frame = ParseFrame(message, method_.request);
    for (const grpc::ByteBuffer& part : frame->frames) Note(part);
    if (!frame->frames.empty()) return;
    written.push_back(Describe(message, method_));
    if (frame->shared.has_value()) shared.push_back(*frame->shared);
  }
  const StreamMethod& method_;
};

// Gives bytes of memory, then an error if it shall.
class TestSource final : public ByteSource {
 public:
  explicit TestSource(std::span<const std::byte> bytes) : memory_(bytes) {}
  int64_t size_bytes() const override { return memory_.size_bytes(); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override {
    ++taken;
    if (pieces_to_error-- == 0) return absl::OutOfRangeError("the source is broken");
    return memory_.Next(max_bytes);
  }
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override { return memory_.Rewind(); }

  int pieces_to_error = -1;
  int taken = 0;

 private:
  MemorySource memory_;
};

class TestSink final : public PlaneSink {
 public:
  absl::Status Begin(std::span<const PlaneDesc>) override { return absl::OkStatus(); }
  absl::Status Write(int, int64_t, std::span<const std::byte> piece) override {
    if (is_full) return absl::ResourceExhaustedError("disk full");
    bytes.insert(bytes.end(), piece.begin(), piece.end());
    return absl::OkStatus();
  }
  absl::Status Restart() override {
    bytes.clear();
    return absl::OkStatus();
  }

  bool is_full = false;
  std::vector<std::byte> bytes;
};

// A kind of call whose plane are the bytes that go in.
class EchoCall final : public TensorCall {
 public:
  EchoCall(TestSource& source, TestSink& sink, const CallOptions& options)
      : TensorCall(kQuantizeStream, std::vector<PlaneInput>{{"", &source}}, &sink, options),
        size_bytes_(source.size_bytes()) {}
  absl::Status Prepare() override { return prepared; }
  absl::Status prepared;

 protected:
  grpc::ByteBuffer StartRequest(uint64_t tensor_id, const StreamRegion*) const override {
    v1::StreamingQuantizeRequest request;
    request.set_tensor_id(tensor_id);
    request.mutable_start();
    return SerializeFrame(request);
  }
  absl::StatusOr<std::vector<PlaneDesc>> TakeStart(const ParsedFrame&) override {
    return std::vector<PlaneDesc>{{.name = "codes", .size_bytes = size_bytes_}};
  }
  absl::Status TakeEnd(const ParsedFrame& frame) override {
    v1::QuantizeFinished finished;
    EXPECT_TRUE(finished.ParseFromString(frame.message));
    return EndPlanes(
        [&](const std::string& plane) { return finished.report().digests().at(plane); });
  }

 private:
  const int64_t size_bytes_;
};

// One stream of some echo calls. What the peer does and when is the test's.
class ExchangeTest : public ::testing::Test {
 protected:
  // Adds a tensor; ids are 1, 2, ... in the order of adding.
  void Add(size_t size_bytes) {
    values_.emplace_back(size_bytes, std::byte{static_cast<uint8_t>(values_.size() + 1)});
    sources_.emplace_back(values_.back());
    sinks_.emplace_back();
    calls_.push_back(std::make_unique<EchoCall>(sources_.back(), sinks_.back(), options_));
  }
  void Begin(std::unique_ptr<StreamRegion> region = nullptr) {
    std::vector<TensorCall*> calls;
    for (const auto& call : calls_) calls.push_back(call.get());
    port_ = std::make_unique<HandPort>(kQuantizeStream);
    queue_ = std::make_unique<CallQueue>(calls);
    exchange_ = std::make_unique<Exchange>(kQuantizeStream, *port_, *queue_, std::move(region),
                                           options_);
    exchange_->Run();
  }

  Step Write() { return exchange_->WriteStep(absl::UnixEpoch()); }
  // Calls a job's step until it does not go on.
  Step WriteAll() {
    Step step = Step::kMore;
    while (step == Step::kMore) step = Write();
    return step;
  }
  Step ReadAll() {
    Step step = Step::kMore;
    while (step == Step::kMore) step = exchange_->ReadStep();
    return step;
  }
  // The port has written what it had, and all that follows from it.
  void Deliver(bool ok = true) {
    while (std::exchange(port_->writing, nullptr) != nullptr) exchange_->OnWritten(ok);
  }
  void Respond(const v1::StreamingQuantizeResponse& response) {
    Respond(SerializeFrame(response));
  }
  void Respond(const grpc::ByteBuffer& message) {
    ASSERT_NE(port_->reading, nullptr);
    *std::exchange(port_->reading, nullptr) = message;
    exchange_->OnRead(true);
  }
  // The peer says no more, and what is under way ends.
  void End(const absl::Status& status) {
    if (std::exchange(port_->reading, nullptr) != nullptr) {
      port_->over = true;
      exchange_->OnRead(false);
    }
    Deliver(false);
    exchange_->OnEnded(status);
  }

  v1::StreamingQuantizeResponse Started(uint64_t id) {
    v1::StreamingQuantizeResponse response;
    response.set_tensor_id(id);
    response.mutable_start();
    return response;
  }
  v1::StreamingQuantizeResponse Chunk(uint64_t id) {
    const auto& values = values_.at(id - 1);
    v1::StreamingQuantizeResponse response;
    response.set_tensor_id(id);
    response.mutable_chunk()->set_plane("codes");
    response.mutable_chunk()->set_data(values.data(), values.size());
    response.mutable_chunk()->set_crc32c(Crc32c(values));
    return response;
  }
  v1::StreamingQuantizeResponse Finished(uint64_t id) {
    v1::StreamingQuantizeResponse response;
    response.set_tensor_id(id);
    (*response.mutable_end()->mutable_report()->mutable_digests())["codes"] =
        DigestOf(values_.at(id - 1));
    return response;
  }
  v1::StreamingQuantizeResponse Error(uint64_t id, absl::StatusCode code) {
    v1::StreamingQuantizeResponse response;
    response.set_tensor_id(id);
    response.mutable_error()->set_code(static_cast<int32_t>(code));
    response.mutable_error()->set_message("the server's error");
    return response;
  }
  // The server lets the tensor in, whose `start` is all that has been written.
  void LetIn(uint64_t id) {
    EXPECT_EQ(WriteAll(), Step::kWait);
    Deliver();
    EXPECT_EQ(WriteAll(), Step::kWait);
    EXPECT_EQ(port_->written.back(), absl::StrCat("start ", id));
    Respond(Started(id));
    ReadAll();
  }
  void Answer(uint64_t id) {
    for (const auto& response : {Started(id), Chunk(id), Finished(id)}) {
      Respond(response);
      ReadAll();
    }
  }
  absl::StatusCode CodeOf(uint64_t id) const { return calls_.at(id - 1)->status().code(); }
  std::string MessageOf(uint64_t id) const {
    return std::string(calls_.at(id - 1)->status().message());
  }

  CallOptions options_;
  std::deque<std::vector<std::byte>> values_;
  std::deque<TestSource> sources_;
  std::deque<TestSink> sinks_;
  std::vector<std::unique_ptr<EchoCall>> calls_;
  std::unique_ptr<HandPort> port_;
  std::unique_ptr<CallQueue> queue_;
  std::unique_ptr<Exchange> exchange_;
};

TEST_F(ExchangeTest, SendsFramesInOrder) {
  options_.chunk_bytes = 40;
  Add(100);
  Add(0);
  Begin();
  EXPECT_EQ(WriteAll(), Step::kOver);
  EXPECT_THAT(port_->written, ElementsAre("start 1"));  // the others lie behind it
  EXPECT_FALSE(port_->half_closed);
  Deliver();
  EXPECT_THAT(port_->written, ElementsAre("start 1", "chunk 1 @0 +40", "chunk 1 @40 +40",
                                          "chunk 1 @80 +20", "end 1", "start 2", "end 2"));
  EXPECT_TRUE(port_->half_closed);
  EXPECT_EQ(ReadAll(), Step::kWait);
  Answer(2);  // in any order
  Answer(1);
  End(absl::OkStatus());
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kOk) << calls_[0]->status();
  EXPECT_EQ(CodeOf(2), absl::StatusCode::kOk) << calls_[1]->status();
  EXPECT_EQ(sinks_[0].bytes == values_[0], true);
  EXPECT_FALSE(port_->cancelled);
}

TEST_F(ExchangeTest, QueuesOneLargeMessage) {
  options_.chunk_bytes = 100'000;
  Add(400'000);
  Begin();
  LetIn(1);
  EXPECT_EQ(WriteAll(), Step::kWait);  // a chunk is being written, another one lies behind it
  EXPECT_THAT(port_->written, ElementsAre("start 1", "chunk 1 @0 +100000"));
  port_->writing = nullptr;
  exchange_->OnWritten(true);
  EXPECT_THAT(port_->written,
              ElementsAre("start 1", "chunk 1 @0 +100000", "chunk 1 @100000 +100000"));
  EXPECT_EQ(Write(), Step::kWait);  // one more, while that goes out
  EXPECT_EQ(Write(), Step::kWait);
  Deliver();
  EXPECT_EQ(port_->written.size(), 4u);
}

TEST_F(ExchangeTest, QueuesManySmallFrames) {
  options_.chunk_bytes = 488;  // 1,000 and some with what a frame takes beside
  Add(1'000'000);
  Begin();
  LetIn(1);
  EXPECT_EQ(WriteAll(), Step::kWait);
  EXPECT_EQ(port_->written.size(), 2u);
  Deliver();
  EXPECT_GT(port_->written.size(), 60u);
  EXPECT_LT(port_->written.size(), 70u);
  EXPECT_EQ(port_->messages, 3);
}

TEST_F(ExchangeTest, SendsTogetherWhatHasComeUpMeanwhile) {
  for (const size_t size_bytes : {100, 100, 60'000, 60'000, 200'000}) Add(size_bytes);
  Begin();
  const auto next_message = [&] {
    EXPECT_EQ(WriteAll(), port_->half_closed ? Step::kOver : Step::kWait);
    port_->written.clear();
    port_->writing = nullptr;
    exchange_->OnWritten(true);
    return port_->written;
  };
  EXPECT_EQ(WriteAll(), Step::kWait);
  EXPECT_THAT(port_->written, ElementsAre("start 1"));
  // Up to 64 KiB behind the first frame, which may be large.
  EXPECT_THAT(next_message(), ElementsAre("chunk 1 @0 +100", "end 1", "start 2", "chunk 2 @0 +100",
                                          "end 2", "start 3", "chunk 3 @0 +60000", "end 3",
                                          "start 4"));
  EXPECT_THAT(next_message(), ElementsAre("chunk 4 @0 +60000", "end 4", "start 5"));
  Respond(Started(1));
  ReadAll();
  EXPECT_EQ(WriteAll(), Step::kWait);
  Deliver();
  EXPECT_EQ(WriteAll(), Step::kOver);
  Deliver();
  EXPECT_THAT(port_->written, ElementsAre("chunk 4 @0 +60000", "end 4", "start 5",
                                          "chunk 5 @0 +200000", "end 5"));
  EXPECT_EQ(port_->messages, 5);
}

TEST_F(ExchangeTest, TakesAnswersThatComeTogether) {
  Add(100);
  Add(200);
  Begin();
  WriteAll();
  Deliver();
  v1::StreamingQuantizeResponse together;
  for (const uint64_t id : {2, 1}) {
    for (const auto& response : {Started(id), Chunk(id), Finished(id)}) {
      *together.add_frames() = response;
    }
  }
  Respond(together);
  EXPECT_EQ(ReadAll(), Step::kWait);
  End(absl::OkStatus());
  EXPECT_EQ(ReadAll(), Step::kOver);
  for (const uint64_t id : {1, 2}) {
    EXPECT_EQ(CodeOf(id), absl::StatusCode::kOk) << MessageOf(id);
    EXPECT_EQ(sinks_[id - 1].bytes == values_[id - 1], true);
  }
}

TEST_F(ExchangeTest, BreaksOffOnFramesWithinFrames) {
  Add(100);
  v1::StreamingQuantizeResponse nested, mixed = Started(1);
  *nested.add_frames()->add_frames() = Started(1);
  *mixed.add_frames() = Chunk(1);
  for (const auto& response : {nested, mixed}) {
    ASSERT_TRUE(calls_[0]->Restart().ok());
    Begin();
    WriteAll();
    Deliver();
    Respond(response);
    ReadAll();
    EXPECT_TRUE(port_->cancelled);
    End(absl::CancelledError("cancelled"));
    EXPECT_EQ(ReadAll(), Step::kOver);
    EXPECT_EQ(CodeOf(1), absl::StatusCode::kDataLoss);
    EXPECT_THAT(MessageOf(1), HasSubstr("frame"));
  }
}

// Else a crowd of clients that wait would fill the server's memory with what it cannot take yet.
TEST_F(ExchangeTest, SendsNoPayloadBeforeTheFirstTensorIsLetIn) {
  Add(100'000);
  Add(100'000);
  Begin();
  LetIn(1);
  EXPECT_EQ(WriteAll(), Step::kWait);
  for (int i = 0; i < 3; ++i) {
    Deliver();
    WriteAll();
  }
  // The stream has memory by now, so that the second one need not wait.
  EXPECT_THAT(port_->written, ElementsAre("start 1", "chunk 1 @0 +100000", "end 1", "start 2",
                                          "chunk 2 @0 +100000", "end 2"));
}

TEST_F(ExchangeTest, ATensorThatIsRefusedSendsNothingAndLetsTheNextOneAsk) {
  Add(100'000);
  Add(100'000);
  Begin();
  EXPECT_EQ(WriteAll(), Step::kWait);
  Deliver();
  Respond(Error(1, absl::StatusCode::kResourceExhausted));
  ReadAll();
  EXPECT_EQ(WriteAll(), Step::kWait);
  Deliver();
  WriteAll();
  Deliver();
  EXPECT_THAT(port_->written, ElementsAre("start 1", "end 1", "start 2"));
  EXPECT_EQ(sources_[0].taken, 0);
  Respond(Started(2));
  ReadAll();
  WriteAll();
  Deliver();
  EXPECT_EQ(port_->written.back(), "end 2");
}

TEST_F(ExchangeTest, ReadsFourMessagesAhead) {
  Add(10);
  Begin();
  WriteAll();
  Respond(Started(1));
  for (int i = 0; i < 3; ++i) {
    v1::StreamingQuantizeResponse empty = Chunk(1);
    empty.clear_chunk();
    empty.mutable_chunk();
    Respond(empty);
  }
  EXPECT_EQ(port_->reading, nullptr);
  EXPECT_EQ(exchange_->ReadStep(), Step::kMore);
  EXPECT_NE(port_->reading, nullptr);
}

TEST_F(ExchangeTest, HasOnlySoManyTensorsOpen) {
  options_.tensors_in_flight = 1;
  Add(10);
  Add(10);
  Begin();
  EXPECT_EQ(WriteAll(), Step::kWait);
  Deliver();
  EXPECT_EQ(port_->written.back(), "end 1");
  Answer(1);
  EXPECT_EQ(WriteAll(), Step::kOver);
  Deliver();
  EXPECT_EQ(port_->written.back(), "end 2");
  EXPECT_TRUE(port_->half_closed);  // before it is answered
}

TEST_F(ExchangeTest, DoesNotSendWhatIsNotPrepared) {
  Add(10);
  Add(10);
  calls_[0]->prepared = absl::InvalidArgumentError("no such tensor");
  Begin();
  WriteAll();
  Deliver();
  EXPECT_THAT(port_->written, ElementsAre("start 1", "chunk 1 @0 +10", "end 1"));
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kInvalidArgument);
}

// All jobs and events in turn, until the stream breaks after some of them.
TEST_F(ExchangeTest, EndsWhereverTheStreamBreaks) {
  options_.chunk_bytes = 70'000;
  for (int break_at = 0;; ++break_at) {
    for (const bool write_fails_first : {false, true}) {
      SCOPED_TRACE(absl::StrCat("after ", break_at, " steps"));
      calls_.clear();
      sinks_.clear();
      sources_.clear();
      values_.clear();
      for (const size_t size_bytes : {200'000, 0, 10}) Add(size_bytes);
      Begin();
      std::deque<v1::StreamingQuantizeResponse> answers;
      size_t seen = 0;
      int steps = 0;
      bool is_done = false;
      while (steps < break_at && !is_done) {
        Write();
        if (++steps == break_at) break;
        if (std::exchange(port_->writing, nullptr) != nullptr) exchange_->OnWritten(true);
        for (; seen < port_->written.size(); ++seen) {
          const std::string& frame = port_->written[seen];
          const auto id = static_cast<uint64_t>(frame.back() - '0');
          if (frame.starts_with("start")) answers.push_back(Started(id));
          if (frame.starts_with("end")) {
            answers.push_back(Chunk(id));
            answers.push_back(Finished(id));
          }
        }
        if (++steps == break_at) break;
        if (!answers.empty() && port_->reading != nullptr) {
          Respond(answers.front());
          answers.pop_front();
        }
        if (++steps == break_at) break;
        exchange_->ReadStep();
        ++steps;
        is_done = port_->half_closed;
        for (const auto& call : calls_) is_done = is_done && call->status().ok();
      }
      if (write_fails_first && std::exchange(port_->writing, nullptr) != nullptr) {
        exchange_->OnWritten(false);
        EXPECT_EQ(WriteAll(), Step::kOver);
        EXPECT_EQ(ReadAll(), Step::kWait);  // reading tells why
      }
      End(is_done ? absl::OkStatus() : absl::UnavailableError("going down"));
      EXPECT_EQ(WriteAll(), Step::kOver);
      EXPECT_EQ(ReadAll(), Step::kOver);
      int ended = 0;
      for (size_t i = 0; i < calls_.size(); ++i) {
        const absl::Status status = calls_[i]->status();
        if (status.ok()) {
          EXPECT_EQ(sinks_[i].bytes == values_[i], true);
        } else if (!absl::IsInternal(status)) {  // that is one that has not been taken
          EXPECT_EQ(status, absl::UnavailableError("going down"));
        }
        ended += absl::IsInternal(status) ? 0 : 1;
      }
      while (queue_->Pop() != nullptr) ++ended;
      EXPECT_EQ(ended, 3);
      if (is_done) return;
    }
    ASSERT_LT(break_at, 1000);
  }
}

TEST_F(ExchangeTest, BreaksOffOnAnAnswerForAnUnknownTensor) {
  options_.chunk_bytes = 100'000;
  Add(300'000);
  Add(10);
  Begin();
  EXPECT_EQ(WriteAll(), Step::kWait);
  Respond(Started(7));
  Respond(Started(1));
  ReadAll();
  EXPECT_TRUE(port_->cancelled);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kDataLoss);
  EXPECT_THAT(MessageOf(1), HasSubstr("tensor id 7, which is not open"));
  EXPECT_EQ(WriteAll(), Step::kOver);
  Respond(Started(1));  // what is on the way is dropped
  EXPECT_EQ(ReadAll(), Step::kWait);
  Deliver(false);
  EXPECT_THAT(port_->written, ElementsAre("start 1"));
  End(absl::CancelledError("cancelled"));
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(exchange_->Failure().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(queue_->Pop(), nullptr);  // the second one is nobody's
}

TEST_F(ExchangeTest, BreaksOffOnWhatIsNoFrame) {
  Add(10);
  Begin();
  WriteAll();
  const grpc::Slice slice("\xff\xff\xff");
  Respond(grpc::ByteBuffer(&slice, 1));
  ReadAll();
  EXPECT_TRUE(port_->cancelled);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kDataLoss);
}

TEST_F(ExchangeTest, TellsWhyTheStreamWasCancelled) {
  Add(10);
  Begin();
  WriteAll();
  Deliver();
  Respond(Started(1));  // is still taken
  End(absl::DeadlineExceededError("too late"));
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kInternal);
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ExchangeTest, TakesAnEarlyEndForAFailure) {
  Add(10);
  Begin();
  WriteAll();
  Deliver();
  End(absl::OkStatus());
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kUnavailable);
}

// A call that is being prepared when the stream ends.
TEST_F(ExchangeTest, FailsACallThatComesTooLate) {
  Add(10);
  Begin();
  EXPECT_EQ(Write(), Step::kMore);  // it is open, nothing is sent
  End(absl::UnavailableError("going down"));
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(WriteAll(), Step::kOver);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(port_->written.empty());
}

TEST_F(ExchangeTest, OnlyClosesATensorWhoseSinkIsFull) {
  options_.chunk_bytes = 100'000;
  Add(300'000);
  Add(10);
  sinks_[0].is_full = true;
  Begin();
  LetIn(1);
  EXPECT_EQ(Write(), Step::kMore);
  Respond(Chunk(1));
  ReadAll();
  EXPECT_EQ(calls_[0]->status(), absl::ResourceExhaustedError("disk full"));
  for (int i = 0; i < 5; ++i) {
    Deliver();
    WriteAll();
  }
  EXPECT_THAT(port_->written, ElementsAre("start 1", "chunk 1 @0 +100000", "end 1", "start 2",
                                          "chunk 2 @0 +10", "end 2"));
  Respond(Error(1, absl::StatusCode::kDataLoss));  // it is cut short
  ReadAll();
  Answer(2);
  End(absl::OkStatus());
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(calls_[0]->status(), absl::ResourceExhaustedError("disk full"));
  EXPECT_TRUE(calls_[1]->status().ok()) << calls_[1]->status();
}

TEST_F(ExchangeTest, OnlyClosesATensorWhoseSourceIsBroken) {
  options_.chunk_bytes = 40;
  Add(100);
  sources_[0].pieces_to_error = 1;
  Begin();
  EXPECT_EQ(WriteAll(), Step::kOver);
  Deliver();
  EXPECT_THAT(port_->written, ElementsAre("start 1", "chunk 1 @0 +40", "end 1"));
  Respond(Error(1, absl::StatusCode::kDataLoss));
  End(absl::OkStatus());
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(calls_[0]->status(), absl::OutOfRangeError("the source is broken"));
}

// A server that lies: the result is whole, but the source goes on after its end.
TEST_F(ExchangeTest, AnErrorOfTheSourceCountsEvenBehindTheEnd) {
  Add(10);
  sources_[0].pieces_to_error = 1;
  Begin();
  for (int i = 0; i < 3; ++i) Write();
  Deliver();
  Answer(1);
  EXPECT_TRUE(calls_[0]->status().ok());
  WriteAll();
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kOutOfRange);
}

TEST_F(ExchangeTest, StopsSendingATensorThatTheServerRefuses) {
  options_.chunk_bytes = 100'000;
  Add(300'000);
  Begin();
  LetIn(1);
  EXPECT_EQ(Write(), Step::kMore);
  Respond(Error(1, absl::StatusCode::kUnavailable));
  ReadAll();
  for (int i = 0; i < 3; ++i) {
    Deliver();
    WriteAll();
  }
  EXPECT_THAT(port_->written, ElementsAre("start 1", "chunk 1 @0 +100000", "end 1"));
  EXPECT_EQ(calls_[0]->status(), absl::UnavailableError("the server's error"));
  EXPECT_TRUE(calls_[0]->Restart().ok());
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kInternal);  // on its way again
}

// What a first attempt announced is no longer there in the second.
TEST_F(ExchangeTest, TakesNoChunkBeforeTheStartOfASecondAttempt) {
  Add(10);
  Begin();
  WriteAll();
  Deliver();
  Respond(Started(1));
  End(absl::UnavailableError("going down"));
  EXPECT_EQ(ReadAll(), Step::kOver);
  ASSERT_TRUE(calls_[0]->Restart().ok());
  Begin();
  WriteAll();
  Deliver();
  Respond(Chunk(1));
  ReadAll();
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kDataLoss);
  EXPECT_THAT(MessageOf(1), HasSubstr("did not announce"));
}

class SharedExchangeTest : public ExchangeTest {
 protected:
  static constexpr int64_t kSlot = StreamRegion::kSlotBytes;

  static std::unique_ptr<StreamRegion> MakeRegion() {
    return std::make_unique<StreamRegion>(
        SharedMemory::Create(StreamRegion::BytesFor(kSlot)).value(), kSlot, AcceptedMemory{});
  }
  void Release(int64_t offset) {
    v1::StreamingQuantizeResponse response;
    response.mutable_released()->add_offsets(offset);
    Respond(response);
    ReadAll();
  }
};

TEST_F(SharedExchangeTest, WaitsUntilTheServerHasTakenASlot) {
  Add(static_cast<size_t>(5 * kSlot + 1000));
  Begin(MakeRegion());
  LetIn(1);
  EXPECT_EQ(WriteAll(), Step::kWait);
  Deliver();
  EXPECT_EQ(Write(), Step::kWait);
  EXPECT_EQ(port_->written.size(), 5u);  // "start" and four slots
  EXPECT_EQ(port_->written.back(), absl::StrCat("chunk 1 @", 3 * kSlot, " +", kSlot, " shared"));
  Release(port_->shared[2].offset);
  EXPECT_EQ(WriteAll(), Step::kOver);  // the rest goes as bytes
  Deliver();
  ASSERT_EQ(port_->written.size(), 8u);
  EXPECT_EQ(port_->shared[4].offset, port_->shared[2].offset);
  EXPECT_EQ(port_->written[6], absl::StrCat("chunk 1 @", 5 * kSlot, " +1000"));
  EXPECT_EQ(port_->written[7], "end 1");
  EXPECT_FALSE(port_->cancelled);
  Release(port_->shared[0].offset);
  Release(port_->shared[0].offset);  // which it does not have
  EXPECT_TRUE(port_->cancelled);
  EXPECT_THAT(MessageOf(1), HasSubstr("which it did not have"));
}

TEST_F(SharedExchangeTest, ABrokenStreamNeedsNoSlot) {
  Add(static_cast<size_t>(6 * kSlot));
  Begin(MakeRegion());
  LetIn(1);
  WriteAll();
  Deliver();
  EXPECT_EQ(Write(), Step::kWait);
  End(absl::UnavailableError("going down"));
  EXPECT_EQ(WriteAll(), Step::kOver);
  EXPECT_EQ(ReadAll(), Step::kOver);
  EXPECT_EQ(exchange_->TakeRegion(), nullptr);
}

TEST_F(SharedExchangeTest, NeitherDoesATensorThatHasFailed) {
  Add(static_cast<size_t>(6 * kSlot));
  Begin(MakeRegion());
  LetIn(1);
  WriteAll();
  Deliver();
  EXPECT_EQ(Write(), Step::kWait);
  Respond(Error(1, absl::StatusCode::kInvalidArgument));
  ReadAll();
  EXPECT_EQ(WriteAll(), Step::kOver);
  Deliver();
  EXPECT_EQ(port_->written.back(), "end 1");
}

TEST_F(SharedExchangeTest, GivesBackTheSlotOfABrokenSource) {
  Add(static_cast<size_t>(2 * kSlot));
  sources_[0].pieces_to_error = 1;
  Begin(MakeRegion());
  LetIn(1);
  EXPECT_EQ(WriteAll(), Step::kOver);
  Deliver();
  Release(port_->shared[0].offset);
  Respond(Error(1, absl::StatusCode::kDataLoss));
  End(absl::OkStatus());
  EXPECT_EQ(ReadAll(), Step::kOver);
  const std::unique_ptr<StreamRegion> region = exchange_->TakeRegion();
  ASSERT_NE(region, nullptr);
  EXPECT_TRUE(region->is_free());
}

TEST_F(ExchangeTest, RefusesSharedMemoryWhereThereIsNone) {
  Add(10);
  Begin();
  WriteAll();
  v1::StreamingQuantizeResponse response;
  response.mutable_released()->add_offsets(4096);
  Respond(response);
  ReadAll();
  EXPECT_TRUE(port_->cancelled);
  EXPECT_EQ(CodeOf(1), absl::StatusCode::kDataLoss);
}

// Calibrate has no ids, and one message answers.
TEST(CalibrateExchangeTest, TakesOneAnswer) {
  const std::vector<std::byte> values(100);
  MemorySource source(values);
  CallOptions options;
  options.chunk_bytes = 60;
  CalibrationInfo info;
  const auto call = MakeCalibrateCall({"x", DType::kF32, *Shape::Make({25})}, *ParseSpec("int8"),
                                      source, {}, options, info);
  TensorCall* const pointer = call.get();
  CallQueue queue({&pointer, 1});
  HandPort port(kCalibrateStream);
  Exchange exchange(kCalibrateStream, port, queue, nullptr, options);
  exchange.Run();
  while (exchange.WriteStep(absl::UnixEpoch()) != Step::kOver) {
  }
  while (std::exchange(port.writing, nullptr) != nullptr) exchange.OnWritten(true);
  EXPECT_THAT(port.written, ElementsAre("start 0", "chunk 0 @0 +60", "chunk 0 @60 +40", "end 0"));
  v1::CalibrateResponse response;
  response.set_resolved_spec("int8");
  response.mutable_ranges()->add_min(-1);
  response.mutable_ranges()->add_max(1);
  response.mutable_ranges()->mutable_tensor()->set_min(-1);
  response.mutable_ranges()->mutable_tensor()->set_max(1);
  *std::exchange(port.reading, nullptr) = SerializeFrame(response);
  exchange.OnRead(true);
  exchange.OnRead(false);
  exchange.OnEnded(absl::OkStatus());
  while (exchange.ReadStep() != Step::kOver) {
  }
  EXPECT_TRUE(call->status().ok()) << call->status();
  EXPECT_EQ(info.resolved_spec, "int8");
}

}  // namespace
}  // namespace quantd
