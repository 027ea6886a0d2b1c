#ifndef QUANTD_TESTS_SIM_DICE_H_
#define QUANTD_TESTS_SIM_DICE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "core/exec/executor.h"

namespace quantd::sim {

// Chooses which action goes first, how things are cut, what goes wrong: by a seed, or by bytes as a
// fuzzer makes them and by the seed when these are used up. The same ones choose the same again.
class Dice {
 public:
  explicit Dice(uint64_t seed, std::span<const uint8_t> choices = {})
      : rng_(seed), choices_(choices) {}
  // From 0 to n - 1.
  int64_t Below(int64_t n) {
    uint64_t value = 0;
    if (choices_.empty()) {
      value = rng_();
    } else {
      // As many bytes as n has.
      for (int64_t most = n - 1; most > 0 && !choices_.empty(); most >>= 8) {
        value = value << 8 | choices_.front();
        choices_ = choices_.subspan(1);
      }
    }
    return static_cast<int64_t>(value % static_cast<uint64_t>(n));
  }
  bool OneIn(int64_t n) { return Below(n) == 0; }

 private:
  std::mt19937_64 rng_;
  std::span<const uint8_t> choices_;
};

// Keeps what is submitted, and runs one of it at a time, in any order.
class SimExecutor final : public Executor {
 public:
  explicit SimExecutor(Dice& dice) : Executor(0), dice_(dice) {}
  int workers() const override { return 2; }
  void Submit(std::function<void()> task) override { tasks_.push_back(std::move(task)); }
  bool empty() const { return tasks_.empty(); }
  void RunOne() {
    const auto i = dice_.Below(std::ssize(tasks_));
    std::function<void()> task = std::move(tasks_[static_cast<size_t>(i)]);
    tasks_.erase(tasks_.begin() + i);
    task();
  }

 private:
  Dice& dice_;
  std::vector<std::function<void()>> tasks_;
};

}  // namespace quantd::sim

#endif  // QUANTD_TESTS_SIM_DICE_H_
