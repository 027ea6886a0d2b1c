#ifndef QUANTD_CLIENT_CLI_REPORT_VIEW_H_
#define QUANTD_CLIENT_CLI_REPORT_VIEW_H_

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
  std::string note;
  Json details = Json::object();  // beside the above, for --json
};

// Adds what `figures` tell of two tensors together; their elements are taken as one.
void AddEnergies(const Figures& from, Figures& into);

// Returns the rows as a table with totals.
std::string ReportTable(const std::vector<TensorRow>& rows);

// Returns "N beyond f16's largest, which they are now".
std::string SaturatedText(int64_t saturated, DType dtype);

// Returns a row, the figures, and a shape as JSON.
Json ToJson(const TensorRow& row);
Json ToJson(const Figures& figures);
Json ToJson(const Shape& shape);

// Returns the totals of rows as JSON.
Json TotalsJson(const std::vector<TensorRow>& rows);

// Prints a document to stdout. Text that is not UTF-8 has replacement characters.
void PrintJson(const Json& json);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_REPORT_VIEW_H_
