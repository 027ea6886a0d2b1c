// Rates of the core beside the machine's own: memcpy, and plain loops that read and write as many
// bytes (codes of less than a byte beside those of a byte). GB/s are of f32 input read (decode:
// written). Every scheme is encoded and decoded by sessions over memory, digest included, with 1
// and 2 threads, on 64 KiB, 4 MiB and 256 MiB; the largest also with 4, 8, ... threads, as far as
// the machine has cores.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/scheme/registry.h"
#include "core/session/dequantize_session.h"
#include "core/session/quantize_session.h"
#include "tests/bench/table.h"
#include "tests/support/values.h"

namespace quantd::bench {
namespace {

using testing::Bench;
using testing::MakeTensor;

constexpr int64_t kCols = 4096;

// One input for all benchmarks, made once.
const std::vector<float>& Input() {
  static const std::vector<float> kInput = [] {
    std::vector<float> values(size_t{64} << 20);
    uint32_t state = 1;
    for (float& value : values) {
      state = state * 1664525 + 1013904223;
      value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
    return values;
  }();
  return kInput;
}

// Bell-shaped, as weights are, for ranges that are searched for: sums of eight of the input's.
const std::vector<float>& Bells() {
  static const std::vector<float> kBells = [] {
    std::vector<float> values(size_t{1} << 20);
    for (size_t i = 0; i < values.size(); ++i) {
      for (size_t j = 0; j < 8; ++j) values[i] += Input()[8 * i + j];
    }
    return values;
  }();
  return kBells;
}

// What a thread of a plain loop does: read values, scale, write; as well as the compiler can.
#if defined(__x86_64__)
#define QUANTD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QUANTD_CLONES
#endif
QUANTD_CLONES void PlainLoop(const float* in, int8_t* out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<int8_t>(in[i] * 127.0f);
}
QUANTD_CLONES void PlainLoop(const float* in, int16_t* out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<int16_t>(in[i] * 32767.0f);
}
QUANTD_CLONES void PlainLoop(const int8_t* in, float* out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(in[i]) * 0x1p-7f;
}
QUANTD_CLONES void PlainLoop(const int16_t* in, float* out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(in[i]) * 0x1p-15f;
}

template <typename Fn>
void OnThreads(int threads, size_t count, Executor& executor, Fn fn) {
  const size_t part = count / static_cast<size_t>(threads);
  std::latch done(threads - 1);
  for (int i = 1; i < threads; ++i) {
    executor.Submit([&, i] {
      fn(static_cast<size_t>(i) * part, part);
      done.count_down();
    });
  }
  fn(0, part);
  done.wait();
}

void BenchCopy(benchmark::State& state, int64_t bytes, int threads) {
  static std::vector<std::byte> out(size_t{256} << 20);
  Executor executor(threads - 1);
  for (auto _ : state) {
    OnThreads(threads, static_cast<size_t>(bytes), executor, [&](size_t at, size_t size) {
      std::memcpy(out.data() + at, reinterpret_cast<const std::byte*>(Input().data()) + at, size);
    });
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}

// `bytes` are those of the f32 side.
template <typename In, typename Out>
void BenchPlain(benchmark::State& state, int64_t bytes, int threads) {
  static std::vector<Out> out(size_t{64} << 20);
  const auto* in = reinterpret_cast<const In*>(Input().data());
  Executor executor(threads - 1);
  for (auto _ : state) {
    OnThreads(threads, static_cast<size_t>(bytes) / sizeof(float), executor,
              [&](size_t at, size_t size) { PlainLoop(in + at, out.data() + at, size); });
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}

QuantizedTensor Prepare(const std::string& spec, std::span<const std::byte> values, Bench& bench) {
  const TensorDesc tensor = MakeTensor(
      "t", DType::kF32, {std::ssize(values) / int64_t{sizeof(float)} / kCols, kCols});
  return *QuantizeAll(*ParseSpec(spec), tensor, values, {}, bench.context());
}

void BenchEncode(benchmark::State& state, const std::string& spec, const std::vector<float>& values,
                 int64_t bytes, int threads, bool figures) {
  Bench bench(threads - 1, int64_t{8} << 30);
  const auto in = std::as_bytes(std::span(values)).first(static_cast<size_t>(bytes));
  QuantizedTensor tensor = Prepare(spec, in, bench);
  for (auto _ : state) {
    QuantizeOptions options;
    options.figures = figures;
    SpanSink sink({tensor.planes.begin(), tensor.planes.end()});  // the same memory each time
    auto session = *QuantizeSession::Create(tensor.plan, options, sink, bench.context());
    session->Push({in, nullptr});
    session->EndInput();
    session->Await();
    if (!session->Finish().ok()) state.SkipWithError("session did not finish");
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}

void BenchDecode(benchmark::State& state, const std::string& spec, int64_t bytes, int threads) {
  Bench bench(threads - 1, int64_t{8} << 30);
  const auto in = std::as_bytes(std::span(Input())).first(static_cast<size_t>(bytes));
  const QuantizedTensor tensor = Prepare(spec, in, bench);
  static std::vector<std::byte> out(size_t{256} << 20);
  for (auto _ : state) {
    SpanSink sink({out});
    auto session = *DequantizeSession::Create(tensor.plan, DType::kF32, sink, bench.context());
    for (size_t plane = tensor.planes.size(); plane-- > 0;) {
      session->Push(static_cast<int>(plane), {tensor.planes[plane], nullptr});
    }
    session->EndInput();
    session->Await();
    if (!session->Finish().ok()) state.SkipWithError("session did not finish");
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}

// 1 and 2; for tensors that give many threads work, further powers of two up to the cores.
std::vector<int> ThreadCounts(int64_t bytes) {
  std::vector<int> counts = {1, 2};
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  while (bytes >= int64_t{256} << 20 && 2 * counts.back() <= cores) {
    counts.push_back(2 * counts.back());
  }
  return counts;
}

// The plain loops' integer that has about as many bits as a code of the spec.
std::string CodesOf(const std::string& spec) {
  const std::string scheme = spec.substr(0, spec.find(':'));
  return (*FindScheme(scheme))->info.bits_per_code > 12 ? "int16" : "int8";
}

void RegisterAll(Baselines& baselines) {
  struct Size {
    const char* name;
    int64_t bytes;
  };
  static constexpr Size kSizes[] = {
      {"64 KiB", 64 << 10}, {"4 MiB", 4 << 20}, {"256 MiB", 256 << 20}};
  std::vector<std::string> specs = {"int8:scale=0.01", "int8:axis=0", "int8:group=128",
                                    "int8:group=32", "uint4:group=32",
                                    "mxfp4:dialect=ggml"};
  for (const Scheme* scheme : AllSchemes()) specs.emplace_back(scheme->info.name);
  for (const Size& size : kSizes) {
    for (const int threads : ThreadCounts(size.bytes)) {
      const std::string column =
          absl::StrCat(size.name, ", ", threads, threads == 1 ? " thread" : " threads");
      const auto add = [&](const std::string& row, auto fn) {
        benchmark::RegisterBenchmark(absl::StrCat(row, "/", column).c_str(), fn)->UseRealTime();
      };
      const int64_t bytes = size.bytes;
      add("memcpy", [=](benchmark::State& state) { BenchCopy(state, bytes, threads); });
      add("read f32, write int8", [=](benchmark::State& state) {
        BenchPlain<float, int8_t>(state, bytes, threads);
      });
      add("read f32, write int16", [=](benchmark::State& state) {
        BenchPlain<float, int16_t>(state, bytes, threads);
      });
      add("read int8, write f32", [=](benchmark::State& state) {
        BenchPlain<int8_t, float>(state, bytes, threads);
      });
      add("read int16, write f32", [=](benchmark::State& state) {
        BenchPlain<int16_t, float>(state, bytes, threads);
      });
      for (const std::string& spec : specs) {
        const std::string codes = CodesOf(spec);
        for (const bool figures : {false, true}) {
          const std::string row = absl::StrCat(spec, figures ? " encode, figures" : " encode");
          baselines[row] = {"read f32, write " + codes};
          add(row, [=](benchmark::State& state) {
            BenchEncode(state, spec, Input(), bytes, threads, figures);
          });
        }
        const std::string row = absl::StrCat(spec, " decode");
        baselines[row] = {absl::StrCat("read ", codes, ", write f32")};
        add(row, [=](benchmark::State& state) { BenchDecode(state, spec, bytes, threads); });
      }
      if (bytes > std::ssize(Bells()) * int64_t{sizeof(float)}) continue;
      for (const char* groups : {"int8:per=tensor", "int8:axis=-1", "int8:group=128",
                                 "int4:group=128", "nf4:group=128", "fp8_e4m3:group=128"}) {
        for (const char* range : {"minmax", "p99", "mse", "entropy"}) {
          const std::string spec = absl::StrCat(groups, ",range=", range);
          const std::string row = absl::StrCat(spec, " encode");
          baselines[row] = {"read f32, write int8"};
          add(row, [=](benchmark::State& state) {
            BenchEncode(state, spec, Bells(), bytes, threads, false);
          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) {
  quantd::SkipDeadlockSearch();  // as the server does
  quantd::bench::Baselines baselines;
  quantd::bench::RegisterAll(baselines);
  return quantd::bench::RunTable(argc, argv, baselines);
}
