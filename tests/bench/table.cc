#include "tests/bench/table.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "core/simd/targets.h"

namespace quantd::bench {
namespace {

double Quantile(std::vector<double> values, double fraction) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(fraction * static_cast<double>(values.size() - 1) + 0.5)];
}

std::string CpuModel() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

template <typename T>
void AddOnce(std::vector<T>& list, const T& item) {
  if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
}

}  // namespace

TableReporter::TableReporter(Baselines baselines, std::string json_path)
    : baselines_(std::move(baselines)), json_path_(std::move(json_path)) {}

bool TableReporter::ReportContext(const Context& context) {
  std::printf("%s, %d cores, SIMD %s, %s\n", CpuModel().c_str(), context.cpu_info.num_cpus,
              ChosenSimdTarget().c_str(), __VERSION__);
  std::printf("median of interleaved repetitions; +- is half the range between the quartiles\n");
  return true;
}

void TableReporter::ReportRuns(const std::vector<Run>& runs) {
  for (const Run& run : runs) {
    if (run.run_type != Run::RT_Iteration) continue;
    const std::string name = run.run_name.function_name;
    if (run.error_occurred) {
      std::fprintf(stderr, "%s: %s\n", name.c_str(), run.error_message.c_str());
      continue;
    }
    const size_t slash = name.rfind('/');
    const std::string row = name.substr(0, slash), column = name.substr(slash + 1);
    AddOnce(rows_, row);
    AddOnce(columns_, column);
    Cell& cell = cells_[{row, column}];
    const auto bytes = run.counters.find("bytes_per_second");
    cell.per_item = bytes == run.counters.end();
    cell.rates.push_back(cell.per_item ? run.counters.at("items_per_second").value
                                       : bytes->second.value / 1e9);
  }
}

void TableReporter::Finalize() {
  // They come in the order of the interleaving.
  std::sort(columns_.begin(), columns_.end());
  std::sort(rows_.begin(), rows_.end());
  for (const std::string& column : columns_) PrintColumn(column);
  if (!json_path_.empty()) WriteJson();
}

void TableReporter::PrintColumn(const std::string& column) {
  size_t longest = 32;
  for (const std::string& row : rows_) longest = std::max(longest, row.size());
  const int width = static_cast<int>(longest);
  std::printf("\n%-*s %12s %6s %8s\n", width + 2, column.c_str(), "rate", "+-", "ratio");
  for (const std::string& row : rows_) {
    const auto cell = cells_.find({row, column});
    if (cell == cells_.end()) continue;
    const std::vector<double>& rates = cell->second.rates;
    const double median = Quantile(rates, 0.5);
    const double spread = (Quantile(rates, 0.75) - Quantile(rates, 0.25)) / 2 / median * 100;
    std::printf("  %-*s %7.*f %s %4.0f %%", width, row.c_str(), cell->second.per_item ? 0 : 2,
                median, cell->second.per_item ? "/s  " : "GB/s", spread);
    PrintRatios(row, column, median);
    std::printf("\n");
  }
}

void TableReporter::PrintRatios(const std::string& row, const std::string& column, double rate) {
  const auto baselines = baselines_.find(row);
  if (baselines == baselines_.end()) return;
  for (const std::string& baseline : baselines->second) {
    const auto cell = cells_.find({baseline, column});
    if (cell == cells_.end()) continue;
    std::printf(" %8.2f of %s", rate / Quantile(cell->second.rates, 0.5), baseline.c_str());
  }
}

void TableReporter::WriteJson() const {
  nlohmann::json document = {{"cpu", CpuModel()},
                             {"simd", ChosenSimdTarget()},
                             {"compiler", __VERSION__},
                             {"results", nlohmann::json::array()}};
  for (const auto& [key, cell] : cells_) {
    document["results"].push_back({{"row", key.first},
                                   {"column", key.second},
                                   {"unit", cell.per_item ? "per second" : "GB/s"},
                                   {"median", Quantile(cell.rates, 0.5)},
                                   {"rates", cell.rates}});
  }
  std::ofstream(json_path_) << document.dump(1) << "\n";
}

int RunTable(int argc, char** argv, Baselines baselines) {
  std::string json_path;
  std::string repetitions = "--benchmark_repetitions=11";
  std::string interleave = "--benchmark_enable_random_interleaving=true";
  std::string min_time = "--benchmark_min_time=0.05";
  std::vector<char*> args = {argv[0], repetitions.data(), interleave.data(), min_time.data()};
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg.rfind("--json=", 0) == 0) {
      json_path = arg.substr(7);
    } else if (arg.rfind("--simd=", 0) == 0) {
      const absl::Status status = ChooseSimdTarget(std::string(arg.substr(7)));
      if (!status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        return 2;
      }
    } else {
      args.push_back(argv[i]);
    }
  }
  int count = static_cast<int>(args.size());
  benchmark::Initialize(&count, args.data());
  if (benchmark::ReportUnrecognizedArguments(count, args.data())) return 2;
  TableReporter reporter(std::move(baselines), json_path);
  benchmark::RunSpecifiedBenchmarks(&reporter);
  benchmark::Shutdown();
  return 0;
}

}  // namespace quantd::bench
