#include "core/session/ordered_jobs.h"

#include <atomic>
#include <functional>
#include <latch>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr uint32_t kSeed = 20241127;

// Numbers for jobs, given up to as many as may be: input that comes bit by bit. Checks what is
// promised of the order of calls.
class Numbers final : public JobSource {
 public:
  Numbers(int64_t total, int64_t max_in_flight) : total_(total), max_in_flight_(max_in_flight) {}

  std::unique_ptr<Job> Next() override {
    EXPECT_FALSE(closed) << "called after Stop";
    if (!MayHaveNext()) return nullptr;
    EXPECT_LE(given - recycled, max_in_flight_ - 1);
    return std::make_unique<NumberJob>(*this, given++);
  }
  bool MayHaveNext() override { return given < available; }
  void Recycle(std::unique_ptr<Job> job) override {
    EXPECT_NE(job, nullptr);
    ++recycled;
  }
  bool Exhausted() override { return given == total_; }
  bool TakesInput() override { return available < total_ && given == available; }

  // Under the lock of the jobs.
  int64_t given = 0, recycled = 0, available = 0;
  bool closed = false;

  std::function<void(int64_t)> run = [](int64_t) {};
  std::function<absl::Status(int64_t)> commit = [](int64_t) { return absl::OkStatus(); };
  std::vector<int64_t> committed;  // by whoever commits, one at a time
  std::atomic<int64_t> runs = 0;

 private:
  class NumberJob final : public Job {
   public:
    NumberJob(Numbers& source, int64_t number) : source_(source), number_(number) {}
    void Run() override {
      EXPECT_EQ(runs_++, 0);
      ++source_.runs;  // before others can tell that it has done its work
      source_.run(number_);
    }
    absl::Status Commit() override {
      EXPECT_EQ(runs_, 1);
      EXPECT_FALSE(source_.committing_.exchange(true));
      source_.committed.push_back(number_);
      absl::Status status = source_.commit(number_);
      source_.committing_ = false;
      return status;
    }

   private:
    Numbers& source_;
    const int64_t number_;
    std::atomic<int> runs_ = 0;
  };

  const int64_t total_;
  const int64_t max_in_flight_;
  std::atomic<bool> committing_ = false;
};

std::vector<int64_t> UpTo(int64_t count) {
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(i);
  return numbers;
}

// Some work, of a length that varies.
void Spin(uint32_t rounds) {
  std::atomic<uint32_t> sink = 0;
  for (uint32_t i = 0; i < rounds; ++i) sink += i;
}

TEST(OrderedJobsTest, CommitInOrderWhateverTheDurations) {
  std::mt19937 rng(kSeed);
  for (const int workers : {0, 1, 3, 8}) {
    for (const int64_t in_flight : {1, 2, 7, 64}) {
      std::vector<uint32_t> lengths(300);
      for (uint32_t& length : lengths) length = rng() % 50 == 0 ? 20'000 : rng() % 500;
      Executor executor(workers);
      Numbers source(300, in_flight);
      source.run = [&](int64_t number) { Spin(lengths[static_cast<size_t>(number)]); };
      const auto jobs = std::make_shared<OrderedJobs>(source, executor, in_flight, nullptr);
      for (const int64_t more : {1, 2, 97, 200}) {
        jobs->Wake([&] { source.available += more; });
        if (more == 97) jobs->Await();
      }
      jobs->Await();
      EXPECT_TRUE(jobs->ended());
      EXPECT_TRUE(jobs->status().ok());
      EXPECT_EQ(source.committed, UpTo(300)) << workers << " workers, seed " << kSeed;
      EXPECT_EQ(source.recycled, 300);
      jobs->Stop();
    }
  }
}

TEST(OrderedJobsTest, ZeroWorkersRunEverythingOnTheCaller) {
  Executor executor(0);
  Numbers source(10, 4);
  std::set<std::thread::id> threads;
  source.run = [&](int64_t) { threads.insert(std::this_thread::get_id()); };
  const auto jobs = std::make_shared<OrderedJobs>(source, executor, 4, nullptr);
  EXPECT_FALSE(jobs->RunOne());
  jobs->Wake([&] { source.available = 10; });
  EXPECT_EQ(source.runs, 0);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(jobs->RunOne());
  EXPECT_FALSE(jobs->RunOne());
  EXPECT_EQ(source.committed, UpTo(10));
  EXPECT_EQ(threads, std::set{std::this_thread::get_id()});
}

// A chain: each job brings the next one, and ends as soon as somebody has looked for that in vain.
// So the one who looked comes to wait in the moment in which nothing runs and there is work.
class Chain final : public JobSource {
 public:
  explicit Chain(int64_t total) : total_(total) {}

  std::unique_ptr<Job> Next() override {
    if (MayHaveNext()) return std::make_unique<Link>(*this, given_++);
    looked_ = given_;
    return nullptr;
  }
  bool MayHaveNext() override { return given_ < total_ && given_ == ended_; }
  void Recycle(std::unique_ptr<Job>) override { ++ended_; }
  bool Exhausted() override { return ended_ == total_; }
  bool TakesInput() override { return false; }

 private:
  class Link final : public Job {
   public:
    Link(Chain& source, int64_t number) : source_(source), number_(number) {}
    void Run() override {
      // The one who waits may have looked before: so not for ever.
      for (int i = 0; i < 10'000 && source_.looked_ <= number_; ++i) std::this_thread::yield();
    }
    absl::Status Commit() override { return absl::OkStatus(); }

   private:
    Chain& source_;
    const int64_t number_;
  };

  const int64_t total_;
  int64_t given_ = 0, ended_ = 0;
  std::atomic<int64_t> looked_ = 0;
};

TEST(OrderedJobsTest, AwaitLeavesNoWork) {
  for (int round = 0; round < 50; ++round) {
    Executor executor(3);
    Chain source(100);
    const auto jobs = std::make_shared<OrderedJobs>(source, executor, 4, nullptr);
    jobs->Wake([] {});
    jobs->Await();
    ASSERT_TRUE(jobs->ended()) << "round " << round;
    jobs->Stop();
  }
}

// Only the first one counts, though the other one is known before it.
TEST(OrderedJobsTest, TheFirstErrorInOrderWins) {
  Executor executor(2);
  Numbers source(100, 8);
  std::latch fifth(1);
  source.run = [&](int64_t number) {
    if (number == 3) fifth.wait();
    if (number == 5) fifth.count_down();
  };
  source.commit = [](int64_t number) {
    if (number == 3) return absl::DataLossError("three");
    return number == 5 ? absl::AbortedError("five") : absl::OkStatus();
  };
  const auto jobs = std::make_shared<OrderedJobs>(source, executor, 8, nullptr);
  jobs->Wake([&] { source.available = 100; });
  jobs->Await();
  EXPECT_TRUE(jobs->ended());
  EXPECT_EQ(jobs->status(), absl::DataLossError("three"));
  EXPECT_EQ(source.committed, UpTo(4));
  EXPECT_EQ(source.recycled, source.given);
  EXPECT_LE(source.given, 3 + 8);
  jobs->Stop();
}

// Others pass it, but not further than is allowed.
TEST(OrderedJobsTest, OneSlowJobHoldsUpOnlySoMany) {
  constexpr int64_t kInFlight = 6;
  for (const int workers : {1, 3}) {
    Executor executor(workers);
    Numbers source(50, kInFlight);
    std::latch passed(kInFlight - 1);
    source.run = [&](int64_t number) {
      if (number == 0) passed.wait();  // which only its successors end
      if (number > 0 && number < kInFlight) passed.count_down();
    };
    source.commit = [&](int64_t number) {
      if (number == 0) {
        EXPECT_EQ(source.runs, kInFlight);
      }
      return absl::OkStatus();
    };
    const auto jobs = std::make_shared<OrderedJobs>(source, executor, kInFlight, nullptr);
    jobs->Wake([&] { source.available = 50; });
    jobs->Await();
    EXPECT_EQ(source.committed, UpTo(50));
    jobs->Stop();
  }
}

// Nobody but the workers works, and each wake brings one job: a wake that is lost would hang.
TEST(OrderedJobsTest, NoHelperIsStranded) {
  constexpr int kThreads = 4, kWakes = 50;
  for (const int workers : {1, 2, 3}) {
    Executor executor(workers);
    for (int round = 0; round < 100; ++round) {
      Numbers source(kThreads * kWakes, 5);
      std::latch all(kThreads * kWakes);
      source.commit = [&](int64_t) {
        all.count_down();
        return absl::OkStatus();
      };
      const auto jobs = std::make_shared<OrderedJobs>(source, executor, 5, nullptr);
      std::vector<std::thread> threads;
      for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
          for (int wake = 0; wake < kWakes; ++wake) jobs->Wake([&] { ++source.available; });
        });
      }
      for (std::thread& thread : threads) thread.join();
      all.wait();
      jobs->Stop();
      ASSERT_EQ(source.committed, UpTo(kThreads * kWakes));
    }
  }
}

TEST(OrderedJobsTest, StopWaitsForWhatRuns) {
  Executor executor(2);
  Numbers source(10, 10);
  std::latch begun(2), release(1);
  source.run = [&](int64_t) {
    begun.count_down();
    release.wait();
  };
  const auto jobs = std::make_shared<OrderedJobs>(source, executor, 10, nullptr);
  jobs->Wake([&] { source.available = 10; });
  begun.wait();
  std::atomic<bool> stopped = false;
  std::thread stopping([&] {
    jobs->Stop();
    source.closed = true;
    stopped = true;
  });
  EXPECT_FALSE(stopped);
  release.count_down();
  stopping.join();
  EXPECT_FALSE(jobs->RunOne());
  jobs->Wake();
  jobs->Await();
  EXPECT_EQ(source.recycled, source.given);
  EXPECT_TRUE(jobs->ended());
}

// The source may be gone then.
TEST(OrderedJobsTest, HelpersThatComeAfterStopTouchNothing) {
  Executor executor(1);
  std::latch release(1);
  executor.Submit([&] { release.wait(); });
  {
    auto source = std::make_unique<Numbers>(10, 4);
    const auto jobs = std::make_shared<OrderedJobs>(*source, executor, 4, nullptr);
    jobs->Wake([&] { source->available = 10; });  // its helper waits behind the task
    jobs->Stop();
    EXPECT_EQ(source->runs, 0);
  }
  release.count_down();
}

TEST(OrderedJobsTest, CancelBeginsNoMore) {
  Executor executor(0);
  Numbers source(10, 4);
  const auto jobs = std::make_shared<OrderedJobs>(source, executor, 4, nullptr);
  jobs->Wake([&] { source.available = 10; });
  EXPECT_TRUE(jobs->RunOne());
  EXPECT_FALSE(jobs->ended());
  jobs->Cancel(absl::CancelledError("enough"));
  EXPECT_TRUE(jobs->ended());
  EXPECT_FALSE(jobs->RunOne());
  jobs->Cancel(absl::AbortedError("again"));
  EXPECT_EQ(jobs->status(), absl::CancelledError("enough"));
  EXPECT_EQ(source.committed, UpTo(1));
}

TEST(OrderedJobsTest, EventsSayThatInputIsWantedAndThatAllHasEnded) {
  Executor executor(0);
  Numbers source(3, 4);
  int events = 0;
  const auto jobs = std::make_shared<OrderedJobs>(source, executor, 4, [&] { ++events; });
  EXPECT_TRUE(jobs->WantsInput());
  jobs->Wake([&] { source.available = 2; });
  EXPECT_EQ(events, 0);  // nobody was told that none is wanted
  EXPECT_FALSE(jobs->WantsInput());
  EXPECT_TRUE(jobs->RunOne());
  EXPECT_EQ(events, 0);
  EXPECT_TRUE(jobs->RunOne());
  EXPECT_EQ(events, 1);
  EXPECT_TRUE(jobs->WantsInput());
  jobs->Wake([&] { source.available = 3; });
  EXPECT_TRUE(jobs->RunOne());
  EXPECT_TRUE(jobs->ended());
  EXPECT_EQ(events, 2);
  jobs->Wake();
  jobs->Cancel(absl::CancelledError("late"));
  EXPECT_EQ(events, 2);
  EXPECT_TRUE(jobs->status().ok());
}

TEST(OrderedJobsTest, NoEventsAfterStop) {
  Executor executor(0);
  Numbers source(3, 4);
  int events = 0;
  const auto jobs = std::make_shared<OrderedJobs>(source, executor, 4, [&] { ++events; });
  jobs->Wake([&] { source.available = 3; });
  jobs->Stop();
  jobs->Wake();
  jobs->Cancel(absl::CancelledError("late"));
  EXPECT_EQ(events, 0);
}

// A session of many jobs lets another one's through.
TEST(OrderedJobsTest, ShareAWorkerFairly) {
  Executor executor(1);
  std::latch release(1), done(101);
  executor.Submit([&] { release.wait(); });
  std::atomic<int64_t> runs = 0, place = -1;
  Numbers large(100, 8), small(1, 8);
  large.run = [&](int64_t) { ++runs; };
  small.run = [&](int64_t) { place = runs.load(); };
  large.commit = small.commit = [&](int64_t) {
    done.count_down();
    return absl::OkStatus();
  };
  const auto first = std::make_shared<OrderedJobs>(large, executor, 8, nullptr);
  const auto second = std::make_shared<OrderedJobs>(small, executor, 8, nullptr);
  first->Wake([&] { large.available = 100; });
  second->Wake([&] { small.available = 1; });
  release.count_down();
  done.wait();
  EXPECT_GT(place, 0);
  EXPECT_LT(place, 50);
  first->Stop();
  second->Stop();
}

}  // namespace
}  // namespace quantd
