#ifndef QUANTD_CLIENT_CLI_REPORT_VIEW_H_
#define QUANTD_CLIENT_CLI_REPORT_VIEW_H_

#include <stdio.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/session/report.h"
#include "core/tensor/shape.h"

namespace quantd::cli {

using Json = nlohmann::ordered_json;

// What a command has to say of one tensor.
struct TensorRow {
  TensorDesc tensor;
  int64_t before_bytes = 0, after_bytes = 0;
  std::optional<Figures> figures;
  std::optional<int64_t> clipped;
  std::string kept;  // why it was kept as it is; empty: it was quantized
  std::string note;
  Json details = Json::object();  // beside the above, for --json
};

// Adds what `figures` tell of two tensors together; their elements are taken as one.
void AddEnergies(const Figures& from, Figures& into);

// Returns the rows as a table with totals, in lines of at most `columns` (ColumnsOfOutput). Tensors
// that were kept for one reason are one line, with their number.
std::string ReportTable(const std::vector<TensorRow>& rows, size_t columns);

// Tensors that are kept, by their reasons, in the order in which they first came.
class KeptTensors {
 public:
  // Counts a tensor of `size_bytes`, which are its bytes in the output as well.
  void Add(const std::string& name, const std::string& reason, int64_t size_bytes);

  struct Line {
    std::string name, note;  // "conv.bias", "kept: rank 1"; "(64 tensors)", "64 kept: rank 1"
    int64_t size_bytes = 0;
  };
  std::vector<Line> Lines() const;

 private:
  struct Kind {
    std::string first_name, reason;
    int64_t count = 0, size_bytes = 0;
  };
  std::vector<Kind> kinds_;
};

// Returns "N beyond f16's largest, which they are now".
std::string SaturatedText(int64_t saturated, DType dtype);

// Returns a row, the figures, and a shape as JSON.
Json ToJson(const TensorRow& row);
Json ToJson(const Figures& figures);
Json ToJson(const Shape& shape);

// Returns the totals of rows as JSON.
Json TotalsJson(const std::vector<TensorRow>& rows);

// Prints a document to `out`. Text that is not UTF-8 has replacement characters.
void PrintJson(const Json& json, FILE* out);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_REPORT_VIEW_H_
