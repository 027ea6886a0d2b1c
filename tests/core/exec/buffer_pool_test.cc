#include "core/exec/buffer_pool.h"

#include <cstdint>
#include <cstring>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST(BufferPoolTest, BuffersHaveTheirSizeAndAlignment) {
  BufferPool pool(64 * kMiB);
  for (const size_t size : {size_t{1}, size_t{63}, size_t{4095}, size_t{4096}, size_t{4097},
                            kMiB - 1, kMiB + 1, 32 * kMiB, 32 * kMiB + 1}) {
    const BufferPool::Buffer buffer = *pool.Acquire(size);
    ASSERT_EQ(buffer.size(), size);
    ASSERT_EQ(buffer.span().size(), size);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % BufferPool::kAlignment, 0u) << size;
    std::memset(buffer.data(), 0xA5, size);  // all of it is ours: ASan watches
  }
}

TEST(BufferPoolTest, NothingIsABufferToo) {
  BufferPool pool(kMiB);
  const BufferPool::Buffer buffer = *pool.Acquire(0);
  EXPECT_EQ(buffer.size(), 0u);
  EXPECT_TRUE(buffer.span().empty());
}

TEST(BufferPoolTest, MemoryThatTheSystemDoesNotGiveIsAnError) {
  bool may_allocate = true;
  BufferPool pool(kMiB, [&](size_t) { return may_allocate; });
  const std::byte* const data = pool.Acquire(5000)->data();
  may_allocate = false;
  EXPECT_EQ(pool.Acquire(5000)->data(), data);  // is kept
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Acquire(10'000).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Acquire(64 * kMiB).status()));
  EXPECT_TRUE(pool.Acquire(0).ok());
}

TEST(BufferPoolTest, ReusesFreedMemoryOfTheSameClass) {
  BufferPool pool(kMiB);
  std::byte* const data = pool.Acquire(5000)->data();  // class of 8 KiB
  EXPECT_EQ(pool.kept_bytes(), 8192u);
  const BufferPool::Buffer smaller = *pool.Acquire(4096);  // class of 4 KiB
  EXPECT_NE(smaller.data(), data);
  EXPECT_EQ(pool.kept_bytes(), 8192u);
  const BufferPool::Buffer again = *pool.Acquire(8192);
  EXPECT_EQ(again.data(), data);
  EXPECT_EQ(again.size(), 8192u);
  EXPECT_EQ(pool.kept_bytes(), 0u);
}

TEST(BufferPoolTest, LiveBuffersDoNotShareMemory) {
  BufferPool pool(kMiB);
  std::vector<BufferPool::Buffer> buffers;
  std::set<std::byte*> seen;
  for (int i = 0; i < 20; ++i) {
    buffers.push_back(*pool.Acquire(4000));
    EXPECT_TRUE(seen.insert(buffers.back().data()).second);
  }
}

TEST(BufferPoolTest, KeepsNoMoreThanItsCap) {
  BufferPool pool(3 * 4096);
  {
    std::vector<BufferPool::Buffer> buffers;
    for (int i = 0; i < 5; ++i) buffers.push_back(*pool.Acquire(4096));
    buffers.push_back(*pool.Acquire(kMiB));
    EXPECT_EQ(pool.kept_bytes(), 0u);
  }
  EXPECT_EQ(pool.kept_bytes(), 3 * 4096u);

  BufferPool nothing(0);
  ASSERT_TRUE(nothing.Acquire(100).ok());
  EXPECT_EQ(nothing.kept_bytes(), 0u);
}

TEST(BufferPoolTest, DoesNotKeepBuffersBeyondItsClasses) {
  BufferPool pool(256 * kMiB);
  ASSERT_TRUE(pool.Acquire(32 * kMiB).ok());
  EXPECT_EQ(pool.kept_bytes(), 32 * kMiB);
  ASSERT_TRUE(pool.Acquire(32 * kMiB + 1).ok());
  EXPECT_EQ(pool.kept_bytes(), 32 * kMiB);
}

TEST(BufferPoolTest, TrimGivesEverythingBack) {
  BufferPool pool(kMiB);
  const BufferPool::Buffer live = *pool.Acquire(100);
  for (const size_t size : {100, 5000, 70000}) ASSERT_TRUE(pool.Acquire(size).ok());
  EXPECT_GT(pool.kept_bytes(), 0u);
  pool.Trim();
  EXPECT_EQ(pool.kept_bytes(), 0u);
  std::memset(live.data(), 1, live.size());
  EXPECT_EQ(pool.Acquire(5000)->size(), 5000u);
}

TEST(BufferPoolTest, MovedBuffersReturnOnce) {
  BufferPool pool(kMiB);
  {
    BufferPool::Buffer first = *pool.Acquire(4096);
    std::byte* const data = first.data();
    BufferPool::Buffer second = std::move(first);
    EXPECT_EQ(second.data(), data);
    EXPECT_EQ(first.data(), nullptr);
    second = *pool.Acquire(4096);
    EXPECT_EQ(pool.kept_bytes(), 4096u);
    BufferPool::Buffer third = *pool.Acquire(4096);
    EXPECT_EQ(third.data(), data);
    second = std::move(third);  // what `second` held goes back at once
    EXPECT_EQ(third.data(), nullptr);
    EXPECT_EQ(pool.kept_bytes(), 4096u);
  }
  EXPECT_EQ(pool.kept_bytes(), 2 * 4096u);
}

TEST(BufferPoolTest, ServesManyThreads) {
  BufferPool pool(16 * 4096);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&pool, t] {
      for (int i = 0; i < 2000; ++i) {
        const BufferPool::Buffer buffer = *pool.Acquire(static_cast<size_t>(1 + (i * 37) % 20000));
        std::memset(buffer.data(), t, buffer.size());
        for (const std::byte byte : buffer.span()) ASSERT_EQ(byte, static_cast<std::byte>(t));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(pool.kept_bytes(), 16 * 4096u);
}

}  // namespace
}  // namespace quantd
