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

// Submits `count` tasks that call fn(0) ... fn(count - 1), and returns when all have ended.
template <typename Fn>
void RunAll(Executor& executor, int64_t count, Fn fn) {
  std::latch done(count);
  for (int64_t i = 0; i < count; ++i) {
    executor.Submit([&, i] {
      fn(i);
      done.count_down();
    });
  }
  done.wait();
}

TEST(ExecutorTest, RunsEachTaskExactlyOnce) {
  for (const int workers : {0, 1, 3, 16}) {
    Executor executor(workers);
    EXPECT_EQ(executor.workers(), workers);
    for (const int64_t count : {0, 1, 2, 3, 17, 1000, 50000}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      RunAll(executor, count, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(calls[static_cast<size_t>(i)], 1) << i << " of " << count << ", " << workers;
      }
    }
  }
}

TEST(ExecutorTest, NegativeWorkersAreNone) {
  Executor executor(-2);
  EXPECT_EQ(executor.workers(), 0);
  int calls = 0;
  executor.Submit([&] { ++calls; });
  EXPECT_EQ(calls, 1);
}

TEST(ExecutorTest, ResultsAreVisibleToWhoeverWaits) {
  Executor executor(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> results(64, -1);  // not atomic on purpose: TSan watches
    RunAll(executor, 64, [&](int64_t i) { results[static_cast<size_t>(i)] = i * round; });
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(results[static_cast<size_t>(i)], i * round);
  }
}

TEST(ExecutorTest, WorkersWorkAtTheSameTime) {
  Executor executor(4);
  std::latch together(4);
  // Each task waits for all others, which only four threads can satisfy.
  RunAll(executor, 4, [&](int64_t) { together.arrive_and_wait(); });
  EXPECT_TRUE(together.try_wait());
}

TEST(ExecutorTest, ZeroWorkersRunEverythingOnTheCaller) {
  Executor executor(0);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<int64_t> order;
  RunAll(executor, 5, [&](int64_t i) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    order.push_back(i);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(ExecutorTest, TasksSubmitTasks) {
  for (const int workers : {0, 1, 2, 5}) {
    Executor executor(workers);
    std::latch calls(12 * 7 * 5);
    for (int task = 0; task < 12; ++task) {
      executor.Submit([&] {
        for (int i = 0; i < 7; ++i) {
          executor.Submit([&] {
            for (int k = 0; k < 5; ++k) executor.Submit([&] { calls.count_down(); });
          });
        }
      });
    }
    calls.wait();  // it would go below zero, or never return
  }
}

TEST(ExecutorTest, SubmitDoesNotWaitForBusyWorkers) {
  Executor executor(2);
  std::latch release(1);
  std::latch busy(2), done(102);
  for (int i = 0; i < 2; ++i) {
    executor.Submit([&] {
      busy.count_down();
      release.wait();
      done.count_down();
    });
  }
  busy.wait();
  std::atomic<int> calls = 0;
  for (int i = 0; i < 100; ++i) {
    executor.Submit([&] {
      ++calls;
      done.count_down();
    });
  }
  EXPECT_EQ(calls, 0);  // both workers are held
  release.count_down();
  done.wait();
  EXPECT_EQ(calls, 100);
}

TEST(ExecutorTest, ManyCallersShareTheWorkers) {
  constexpr int kCallers = 8, kRounds = 300;
  Executor executor(2);
  std::vector<std::thread> callers;
  std::vector<int64_t> sums(kCallers);
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round) {
        std::atomic<int64_t> sum = 0;
        RunAll(executor, round % 40, [&](int64_t i) { sum += i; });
        sums[static_cast<size_t>(caller)] += sum;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  int64_t expected = 0;
  for (int64_t round = 0; round < kRounds; ++round) expected += (round % 40) * (round % 40 - 1) / 2;
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
      executor.Submit([&] {
        executor.Submit([&] {
          for (int k = 0; k < 4; ++k) executor.Submit([&] { ++finished; });
        });
      });
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
