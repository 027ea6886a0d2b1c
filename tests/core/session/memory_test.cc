// Sessions hold no more than their plan says: every allocation of this program is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "tests/support/cuts.h"

namespace {

std::atomic<int64_t> live_bytes = 0, peak_bytes = 0;

// The size stands in front of the memory.
constexpr size_t kHeader = 2 * sizeof(std::max_align_t);

void* CountedNew(size_t size_bytes) {
  auto* memory = static_cast<std::byte*>(std::malloc(size_bytes + kHeader));
  if (memory == nullptr) throw std::bad_alloc();
  *reinterpret_cast<size_t*>(memory) = size_bytes;
  const int64_t live = live_bytes += static_cast<int64_t>(size_bytes);
  for (int64_t peak = peak_bytes; live > peak && !peak_bytes.compare_exchange_weak(peak, live);) {
  }
  return memory + kHeader;
}

void CountedDelete(void* pointer) {
  if (pointer == nullptr) return;
  std::byte* memory = static_cast<std::byte*>(pointer) - kHeader;
  live_bytes -= static_cast<int64_t>(*reinterpret_cast<size_t*>(memory));
  std::free(memory);
}

}  // namespace

void* operator new(size_t size_bytes) { return CountedNew(size_bytes); }
void* operator new[](size_t size_bytes) { return CountedNew(size_bytes); }
void operator delete(void* pointer) noexcept { CountedDelete(pointer); }
void operator delete[](void* pointer) noexcept { CountedDelete(pointer); }
void operator delete(void* pointer, size_t) noexcept { CountedDelete(pointer); }
void operator delete[](void* pointer, size_t) noexcept { CountedDelete(pointer); }

namespace quantd {
namespace {

using testing::Bench;
using testing::MakeTensor;

// Takes output and forgets it, in memory of its own that is not counted twice.
class ForgettingSink : public PayloadSink {
 public:
  std::span<std::byte> Acquire(int, int64_t, int64_t size_bytes) override {
    const size_t size = static_cast<size_t>(size_bytes);
    if (memory_.size() < size) {
      memory_ = std::vector<std::byte>();  // before the larger one is there
      memory_.resize(size);
    }
    return std::span(memory_).first(size);
  }
  void Commit(int, int64_t, int64_t) override {}

 private:
  std::vector<std::byte> memory_;
};

struct Case {
  const char* name;
  const char* spec;
  std::vector<int64_t> dims;
  DType dtype = DType::kF32;
};

class SessionMemoryTest : public ::testing::TestWithParam<Case> {};

TEST_P(SessionMemoryTest, IsWithinThePlan) {
  const Case& param = GetParam();
  const TensorDesc tensor = MakeTensor("t", param.dtype, param.dims);
  // Everything NaN: what is remembered of such values must not grow with their number.
  const std::vector<std::byte> piece(100'003, std::byte{0xFF});
  for (const bool strays : {false, true}) {
    Bench bench(1);
    ForgettingSink sink;
    const std::vector<std::byte> zeros(piece.size());
    const std::span<const std::byte> source = strays ? piece : zeros;
    peak_bytes = live_bytes.load();
    const int64_t before = live_bytes;
    absl::StatusOr<Plan> plan = MakePlan(*ParseSpec(param.spec), tensor, int64_t{1} << 32);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const int64_t resident_bytes = plan->resident_bytes;
    const int64_t gathered_bytes = plan->pass == Pass::kBuffered
                                       ? plan->input_bytes
                                       : plan->window_elems * SizeOf(param.dtype);
    auto session = QuantizeSession::Create(*std::move(plan), {}, bench.context());
    ASSERT_TRUE(session.ok()) << session.status();
    int64_t left_bytes = (*session)->plan().input_bytes;
    while (!(*session)->done()) {
      const int64_t offer = std::min<int64_t>(left_bytes, static_cast<int64_t>(source.size()));
      const auto step =
          (*session)->Step(source.first(static_cast<size_t>(offer)), sink, CancelToken());
      ASSERT_TRUE(step.ok()) << step.status();
      left_bytes -= step->consumed_bytes;
    }
    // Input is gathered in one buffer of the pool, which is kept when it is given back.
    EXPECT_LE(bench.pool.kept_bytes(), std::bit_ceil(static_cast<size_t>(gathered_bytes)) + 4096);
    constexpr int64_t kObjects = 32 << 10;  // the plan, the session, what the executor queues
    EXPECT_LE(peak_bytes - before, resident_bytes - gathered_bytes + kObjects)
        << "of " << resident_bytes << " planned, with" << (strays ? "" : "out") << " strays";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SessionMemoryTest,
    ::testing::Values(
        Case{"tensor", "int8:nonfinite=saturate", {2'000'003}},
        Case{"rows", "int8:axis=0,nonfinite=saturate", {3000, 1001}},
        Case{"long_rows", "int8:axis=0,nonfinite=saturate", {2, 1'000'003}},
        Case{"columns", "int8:axis=-1,nonfinite=saturate", {2000, 1001}},
        Case{"middle_axis", "int8:axis=1,nonfinite=saturate,range=2sigma", {3000, 200, 3}},
        Case{"groups_of_one", "int8:group=1,nonfinite=saturate", {1'000'001}},
        Case{
            "sigma_groups", "int8:group=3,nonfinite=saturate,range=3sigma,tail=short", {900, 1001}},
        Case{"narrow_blocks", "int8:block=100x1,nonfinite=saturate", {200, 20'000}},
        Case{"padded", "q8_0:tail=pad,nonfinite=saturate", {40'000, 33}},
        Case{"padded_columns", "q8_0:tail=pad,nonfinite=saturate", {600'000, 1}},
        Case{"nf4", "nf4:nonfinite=saturate", {1'000'001}},
        Case{"nvfp4", "nvfp4:nonfinite=saturate", {1000, 1600}},
        Case{"f64", "fp16:nonfinite=saturate", {1'000'001}, DType::kF64},
        Case{"small", "int8:nonfinite=saturate", {3, 3}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quantd
