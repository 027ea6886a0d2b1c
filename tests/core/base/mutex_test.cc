#include "core/base/mutex.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

TEST(MutexTest, GuardsAQueueThatThreadsWaitFor) {
  constexpr int kConsumers = 3, kItems = 5000;
  Mutex mutex;
  std::deque<int> queue;  // all of this is guarded by `mutex`; negative items end a consumer
  int64_t sum = 0;
  int running = kConsumers;
  std::vector<std::thread> consumers;
  for (int i = 0; i < kConsumers; ++i) {
    consumers.emplace_back([&] {
      for (;;) {
        const auto has_item = [&queue] { return !queue.empty(); };
        MutexLock lock(&mutex, absl::Condition(&has_item));
        const int item = queue.front();
        queue.pop_front();
        if (item < 0) break;
        sum += item;
      }
      MutexLock lock(&mutex);
      --running;
    });
  }
  for (int i = 0; i < kItems; ++i) {
    MutexLock lock(&mutex);
    queue.push_back(i);
  }
  {
    const auto is_empty = [&queue] { return queue.empty(); };
    const auto all_ended = [&running] { return running == 0; };
    MutexLock lock(&mutex);
    mutex.Await(absl::Condition(&is_empty));
    EXPECT_EQ(sum, int64_t{kItems} * (kItems - 1) / 2);
    for (int i = 0; i < kConsumers; ++i) queue.push_back(-1);
    mutex.Await(absl::Condition(&all_ended));
  }
  for (std::thread& consumer : consumers) consumer.join();
}

TEST(MutexTest, MayBeDestroyedByWhomItLetIn) {
  for (int round = 0; round < 500; ++round) {
    auto mutex = std::make_unique<Mutex>();
    bool done = false;
    std::thread other([&done, borrowed = mutex.get()] {
      MutexLock lock(borrowed);
      done = true;
    });
    mutex->LockWhen(absl::Condition(&done));
    mutex->Unlock();
    mutex.reset();
    other.join();
  }
}

}  // namespace
}  // namespace quantd
