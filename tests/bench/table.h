#ifndef QUANTD_TESTS_BENCH_TABLE_H_
#define QUANTD_TESTS_BENCH_TABLE_H_

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

namespace quantd::bench {

// Runs the registered benchmarks in random interleaved order, several repetitions each, and prints
// a table: median rate, spread (half the range between the quartiles, in percent), and the ratio to
// a baseline. Benchmarks are named ROW/COLUMN; the baseline of a row is looked up in the same
// column. Rates are bytes_per_second, or items_per_second where there are none.
class TableReporter : public benchmark::BenchmarkReporter {
 public:
  // `baselines` gives the baseline row of each row; rows without one have no ratio. `json` may be
  // empty.
  TableReporter(std::map<std::string, std::string> baselines, std::string json_path);

  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;
  void Finalize() override;

 private:
  struct Cell {
    std::vector<double> rates;
    bool per_item = false;
  };
  void PrintColumn(const std::string& column);
  void WriteJson() const;

  const std::map<std::string, std::string> baselines_;
  const std::string json_path_;
  std::vector<std::string> rows_, columns_;  // in order of appearance
  std::map<std::pair<std::string, std::string>, Cell> cells_;
};

// Parses Google Benchmark's flags and `--json=PATH`, sets `repetitions` (at least 10 pairs) with
// random interleaving unless told otherwise, and runs everything. Returns an exit code.
int RunTable(int argc, char** argv, std::map<std::string, std::string> baselines);

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_TABLE_H_
