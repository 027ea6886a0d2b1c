#include "core/exec/executor.h"

#include <atomic>
#include <cstdint>
#include <latch>
#include <thread>
#include <vector>

#include "core/base/float_env.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

TEST(ExecutorTest, CallsEachIndexExactlyOnce) {
  for (const int workers : {0, 1, 3, 16}) {
    Executor executor(workers);
    EXPECT_EQ(executor.concurrency(), workers + 1);
    for (const int64_t count : {0, 1, 2, 3, 17, 1000, 50000}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      executor.ParallelFor(count, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(calls[static_cast<size_t>(i)], 1) << i << " of " << count << ", " << workers;
      }
    }
  }
}

TEST(ExecutorTest, NegativeCountsAreEmptyAndNegativeWorkersNone) {
  Executor executor(-2);
  EXPECT_EQ(executor.concurrency(), 1);
  int calls = 0;
  executor.ParallelFor(-5, [&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 0);
}

TEST(ExecutorTest, ResultsAreVisibleToTheCaller) {
  Executor executor(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> results(64, -1);  // not atomic on purpose: TSan watches
    executor.ParallelFor(64, [&](int64_t i) { results[static_cast<size_t>(i)] = i * round; });
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(results[static_cast<size_t>(i)], i * round);
  }
}

TEST(ExecutorTest, WorkersAndCallerWorkAtTheSameTime) {
  Executor executor(3);
  std::latch together(4);
  // Each index waits for all others, which only four threads can satisfy.
  executor.ParallelFor(4, [&](int64_t) { together.arrive_and_wait(); });
  EXPECT_TRUE(together.try_wait());
}

TEST(ExecutorTest, ZeroWorkersRunEverythingOnTheCaller) {
  Executor executor(0);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<int64_t> order;
  executor.ParallelFor(5, [&](int64_t i) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    order.push_back(i);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
  bool done = false;
  executor.Submit([&] {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    done = true;
  });
  EXPECT_TRUE(done);
}

TEST(ExecutorTest, LoopsNestWithinLoopsAndTasks) {
  for (const int workers : {0, 1, 2, 5}) {
    Executor executor(workers);
    std::atomic<int> calls = 0;
    std::latch tasks(12);
    for (int task = 0; task < 12; ++task) {
      executor.Submit([&] {
        executor.ParallelFor(7, [&](int64_t) {
          executor.ParallelFor(
              5, [&](int64_t) { executor.ParallelFor(3, [&](int64_t) { ++calls; }); });
        });
        tasks.count_down();
      });
    }
    tasks.wait();
    EXPECT_EQ(calls, 12 * 7 * 5 * 3) << workers;
  }
}

TEST(ExecutorTest, LoopDoesNotWaitForBusyWorkers) {
  Executor executor(2);
  std::latch release(1);
  std::latch busy(2);
  for (int i = 0; i < 2; ++i) {
    executor.Submit([&] {
      busy.count_down();
      release.wait();
    });
  }
  busy.wait();
  int calls = 0;  // the caller is the only thread left
  executor.ParallelFor(100, [&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 100);
  release.count_down();
}

TEST(ExecutorTest, ManyCallersShareTheWorkers) {
  constexpr int kCallers = 8, kLoops = 300;
  Executor executor(2);
  std::vector<std::thread> callers;
  std::vector<int64_t> sums(kCallers);
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int loop = 0; loop < kLoops; ++loop) {
        std::atomic<int64_t> sum = 0;
        executor.ParallelFor(loop % 40, [&](int64_t i) { sum += i; });
        sums[static_cast<size_t>(caller)] += sum;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  int64_t expected = 0;
  for (int64_t loop = 0; loop < kLoops; ++loop) expected += (loop % 40) * (loop % 40 - 1) / 2;
  for (const int64_t sum : sums) EXPECT_EQ(sum, expected);
}

TEST(ExecutorTest, OneWorkerRunsTasksInOrder) {
  std::vector<int> order;
  {
    Executor executor(1);
    for (int i = 0; i < 100; ++i) executor.Submit([&order, i] { order.push_back(i); });
  }
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(ExecutorTest, DestructorFinishesTasksAndWhatTheySubmit) {
  std::atomic<int> finished = 0;
  {
    Executor executor(3);
    for (int i = 0; i < 50; ++i) {
      executor.Submit(
          [&] { executor.Submit([&] { executor.ParallelFor(4, [&](int64_t) { ++finished; }); }); });
    }
  }
  EXPECT_EQ(finished, 200);
}

#if defined(__x86_64__)
TEST(ExecutorTest, WorkersDoNotInheritTheFloatEnvironment) {
  const uint32_t before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // flush subnormals, as a host built with -ffast-math does
  Executor executor(1);
  uint32_t worker_flags = 0x8040;
  std::latch done(1);
  executor.Submit([&] {
    worker_flags = _mm_getcsr() & 0x8040;
    done.count_down();
  });
  done.wait();
  _mm_setcsr(before);
  EXPECT_EQ(worker_flags, 0u);
}
#endif

}  // namespace
}  // namespace quantd
