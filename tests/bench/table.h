#ifndef QUANTD_TESTS_BENCH_TABLE_H_
#define QUANTD_TESTS_BENCH_TABLE_H_

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

namespace quantd::bench {

// Names of rows, and of the rows that each is compared with.
using Baselines = std::map<std::string, std::vector<std::string>>;

// Runs the registered benchmarks in random interleaved order, several repetitions each, and prints
// a table: median rate, spread (half the range between the quartiles, in percent), and the ratios
// to baselines. Benchmarks are named ROW/COLUMN; the baselines of a row are looked up in the same
// column, where there need not be one. Rates are bytes_per_second, or items_per_second where there
// are none.
class TableReporter : public benchmark::BenchmarkReporter {
 public:
  // `json_path` may be empty.
  TableReporter(Baselines baselines, std::string json_path);

  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;
  void Finalize() override;

 private:
  struct Cell {
    std::vector<double> rates;
    bool per_item = false;
  };
  void PrintColumn(const std::string& column);
  // Prints what part of the row's baselines `rate` is.
  void PrintRatios(const std::string& row, const std::string& column, double rate);
  void WriteJson() const;

  const Baselines baselines_;
  const std::string json_path_;
  std::vector<std::string> rows_, columns_;  // in order of appearance
  std::map<std::pair<std::string, std::string>, Cell> cells_;
};

// Parses Google Benchmark's flags, `--json=PATH` and `--simd=TARGET`, sets `repetitions` (at least
// 10 pairs) with random interleaving unless told otherwise, and runs everything. Returns an exit
// code.
int RunTable(int argc, char** argv, Baselines baselines);

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_TABLE_H_
