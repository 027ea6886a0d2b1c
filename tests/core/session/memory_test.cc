// Sessions hold no more than their plan says: every allocation of this program is counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <deque>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "tests/support/cuts.h"

namespace {

std::atomic<int64_t> live_bytes = 0, peak_bytes = 0;

// The size stands in front of the memory.
constexpr size_t kHeader = 2 * sizeof(std::max_align_t);

void* CountedNewOrNull(size_t size_bytes) noexcept {
  auto* memory = static_cast<std::byte*>(std::malloc(size_bytes + kHeader));
  if (memory == nullptr) return nullptr;
  *reinterpret_cast<size_t*>(memory) = size_bytes;
  const int64_t live = live_bytes += static_cast<int64_t>(size_bytes);
  for (int64_t peak = peak_bytes; live > peak && !peak_bytes.compare_exchange_weak(peak, live);) {
  }
  return memory + kHeader;
}

void* CountedNew(size_t size_bytes) {
  void* memory = CountedNewOrNull(size_bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
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
// std::stable_sort asks for its buffer so.
void* operator new(size_t size_bytes, const std::nothrow_t&) noexcept {
  return CountedNewOrNull(size_bytes);
}
void operator delete(void* pointer) noexcept { CountedDelete(pointer); }
void operator delete[](void* pointer) noexcept { CountedDelete(pointer); }
void operator delete(void* pointer, size_t) noexcept { CountedDelete(pointer); }
void operator delete[](void* pointer, size_t) noexcept { CountedDelete(pointer); }

namespace quantd {
namespace {

using testing::Bench;
using testing::MakeTensor;

// Takes output and forgets it: it holds the codes that are not committed, as frames do.
class ForgettingSink : public PayloadSink {
 public:
  SinkMemory Acquire(int64_t, int64_t size_bytes) override {
    MutexLock lock(&mutex_);
    return open_.emplace_back(static_cast<size_t>(size_bytes));
  }
  void Commit(int64_t, int64_t, uint32_t) override {
    MutexLock lock(&mutex_);
    open_.pop_front();
  }
  void Put(int, int64_t, std::span<const std::byte>) override {}

 private:
  Mutex mutex_;
  std::deque<std::vector<std::byte>> open_ ABSL_GUARDED_BY(mutex_);
};

struct Case {
  const char* name;
  const char* spec;
  std::vector<int64_t> dims;
  DType dtype = DType::kF32;
  bool uneven = false;  // values differ, unless they are strays
};

void MakeUneven(std::span<std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); i += 5) bytes[i] = static_cast<std::byte>(i * 37);
}

class SessionMemoryTest : public ::testing::TestWithParam<Case> {
 protected:
  // Quantizes `value` everywhere; pieces of 0 bytes are the whole tensor.
  void Measure(const Case& param, const TensorDesc& tensor, int workers, std::byte value,
               size_t piece_bytes) {
    Bench bench(workers);
    ForgettingSink sink;
    std::vector<std::byte> whole(
        piece_bytes == 0 ? static_cast<size_t>(*SizeBytes(tensor)) : size_t{0}, value);
    const bool uneven = param.uneven && value == std::byte{0};
    if (uneven) MakeUneven(whole);
    peak_bytes = live_bytes.load();
    const int64_t before = live_bytes;
    absl::StatusOr<Plan> plan =
        MakePlan(*ParseSpec(param.spec), tensor, int64_t{1} << 32, {.threads = workers + 1});
    ASSERT_TRUE(plan.ok()) << plan.status();
    const int64_t resident_bytes = plan->resident_bytes;
    int64_t held_bytes = plan->held_bytes;
    {
      auto session = QuantizeSession::Create(*std::move(plan), {}, sink, bench.context());
      ASSERT_TRUE(session.ok()) << session.status();
      if (piece_bytes == 0) (*session)->Push({whole, nullptr});
      int64_t left_bytes = piece_bytes == 0 ? 0 : (*session)->plan().input_bytes;
      while (left_bytes > 0) {
        const auto size = std::min(static_cast<size_t>(left_bytes), piece_bytes);
        left_bytes -= static_cast<int64_t>(size);
        const auto piece = std::make_shared<std::vector<std::byte>>(size, value);
        if (uneven) MakeUneven(*piece);
        (*session)->Push({*piece, piece});
        while (!(*session)->WantsInput() && !(*session)->ended()) {
          if (!(*session)->Help()) std::this_thread::yield();
        }
      }
      (*session)->EndInput();
      (*session)->Await();
      ASSERT_TRUE((*session)->Finish().ok()) << (*session)->status();
    }
    // Bands that are held lie in the pool, which keeps them when they are given back; what is owned
    // stays where it is.
    if (piece_bytes == 0) held_bytes = 0;
    const size_t pool_bytes = held_bytes == 0 ? 0 : std::bit_ceil(static_cast<size_t>(held_bytes));
    EXPECT_LE(bench.pool.kept_bytes(), pool_bytes + 4096);
    constexpr int64_t kObjects = 32 << 10;  // the plan, the session, what the executor queues
    EXPECT_LE(peak_bytes - before, resident_bytes - held_bytes + kObjects)
        << "of " << resident_bytes << " planned";
  }
};

TEST_P(SessionMemoryTest, IsWithinThePlan) {
  const Case& param = GetParam();
  const TensorDesc tensor = MakeTensor("t", param.dtype, param.dims);
  for (const int workers : {0, 1, 3}) {
    // Everything NaN: what is remembered of such values must not grow with their number.
    for (const bool strays : {false, true}) {
      // Of lent pieces, which are counted too; small ones, which are gathered; and owned ones.
      for (const size_t piece_bytes : {size_t{100'003}, size_t{999}, size_t{0}}) {
        SCOPED_TRACE(absl::StrCat(workers, " workers, with", strays ? "" : "out",
                                  " strays, pieces of ", piece_bytes, " bytes"));
        Measure(param, tensor, workers, std::byte{strays ? uint8_t{0xFF} : uint8_t{0}},
                piece_bytes);
      }
    }
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
        Case{"ternary_rows", "ternary:axis=0,nonfinite=saturate", {300, 5001}, DType::kF32, true},
        Case{"ternary_long_rows", "ternary:axis=0,nonfinite=saturate", {2, 1'000'003}},
        Case{"ternary_groups", "ternary:group=3,nonfinite=saturate,tail=short", {900, 1001}},
        Case{"lloyd_rows", "lloyd:axis=0,levels=4,nonfinite=saturate", {30, 5001}, DType::kF64,
             true},
        Case{"percentile", "uint8:range=p99,nonfinite=saturate", {1'000'003}, DType::kF32, true},
        Case{"percentile_rows", "uint8:axis=0,range=p99,nonfinite=saturate", {300, 5001},
             DType::kF32, true},
        Case{"percentile_long_rows", "uint8:axis=0,range=p99,nonfinite=saturate", {2, 300'003},
             DType::kF32, true},
        Case{"mse", "uint8:range=mse,nonfinite=saturate", {300'003}, DType::kF32, true},
        Case{"mse_groups", "int4:group=3,range=mse,tail=short,nonfinite=saturate", {300, 1001},
             DType::kF32, true},
        Case{"mse_blocks", "int4:block=16x100,range=mse,nonfinite=saturate", {32, 6000},
             DType::kF32, true},
        Case{"percentile_columns", "uint8:axis=-1,range=p90,nonfinite=saturate", {300, 1001},
             DType::kF32, true},
        Case{"mse_columns", "int4:axis=-1,range=mse,nonfinite=saturate", {300, 1001}, DType::kF64,
             true},
        Case{"entropy_middle", "int8:axis=1,range=entropy,nonfinite=saturate", {30, 101, 50},
             DType::kF32, true},
        Case{"entropy_small", "int8:range=entropy,nonfinite=saturate", {300}, DType::kF64, true},
        Case{"ragged_groups", "uint4:group=32767,tail=short,nonfinite=saturate", {9, 50'001}},
        Case{"narrow_blocks", "int8:block=100x1,nonfinite=saturate", {200, 20'000}},
        Case{"padded", "q8_0:tail=pad,nonfinite=saturate", {40'000, 33}},
        Case{"padded_columns", "q8_0:tail=pad,nonfinite=saturate", {600'000, 1}},
        Case{"nf4", "nf4:nonfinite=saturate", {1'000'001}},
        Case{"nvfp4", "nvfp4:nonfinite=saturate", {1000, 1600}},
        Case{"f64", "fp16:nonfinite=saturate", {1'000'001}, DType::kF64},
        Case{"small", "int8:nonfinite=saturate", {3, 3}},
        Case{"outliers", "int8:outliers=20,nonfinite=saturate", {1000, 1001}, DType::kF32, true},
        Case{"outliers_rows", "int4:axis=0,outliers=500,nonfinite=saturate", {2000, 1000}},
        Case{"outliers_all", "int8:axis=0,outliers=4096,nonfinite=saturate", {200, 4096},
             DType::kF64, true},
        Case{"outliers_long_bands", "int4:axis=0,range=p99,outliers=9,nonfinite=saturate",
             {3, 100, 3001}, DType::kF32, true},
        Case{"binary_columns", "binary:axis=-1,nonfinite=saturate", {300, 1001}},
        Case{"ternary", "ternary:nonfinite=saturate", {300'003}},
        Case{"lloyd", "lloyd:nonfinite=saturate", {300'003}},
        Case{"small_lloyd", "lloyd:nonfinite=saturate", {3, 3}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quantd
