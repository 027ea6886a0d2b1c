#include "client/cli/report_view.h"

#include <stdio.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace quantd::cli {
namespace {

struct Totals {
  int64_t before_bytes = 0, after_bytes = 0;
  std::optional<int64_t> clipped;  // absent where it is in all rows
  size_t measured = 0;
  Figures figures;
};

Totals Sum(const std::vector<TensorRow>& rows) {
  Totals totals;
  for (const TensorRow& row : rows) {
    totals.before_bytes += row.before_bytes;
    totals.after_bytes += row.after_bytes;
    if (row.clipped.has_value()) totals.clipped = totals.clipped.value_or(0) + *row.clipped;
    if (!row.figures.has_value()) continue;
    ++totals.measured;
    AddEnergies(*row.figures, totals.figures);
  }
  return totals;
}

// True where squares of the values, or of their errors, are beyond what a double holds, so that
// nothing can be said of them: the other reason, beside lossless, for which there is no SQNR.
bool Overflowed(const Figures& figures) {
  return !std::isfinite(figures.signal_energy) || !std::isfinite(figures.error_energy) ||
         !std::isfinite(figures.cross_energy) || !std::isfinite(figures.max_error);
}

std::string SqnrText(const Figures& figures) {
  if (figures.Lossless()) return "lossless";
  if (Overflowed(figures)) return "overflow";
  const std::optional<double> sqnr_db = figures.SqnrDb();
  return sqnr_db.has_value() ? absl::StrFormat("%.2f", *sqnr_db) : "-";
}

std::string CosineText(const Figures& figures) {
  const std::optional<double> cosine = figures.Cosine();
  return cosine.has_value() ? absl::StrFormat("%.6f", *cosine) : "-";
}

Json Optional(const std::optional<double>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

}  // namespace

void AddEnergies(const Figures& from, Figures& into) {
  into.count += from.count;
  into.signal_energy += from.signal_energy;
  into.error_energy += from.error_energy;
  into.cross_energy += from.cross_energy;
  into.max_error = std::max(into.max_error, from.max_error);
}

std::string SaturatedText(int64_t saturated, DType dtype) {
  return absl::StrCat(WithCommas(saturated), " beyond ", NameOf(dtype),
                      "'s largest, which they are now");
}

void KeptTensors::Add(const std::string& name, const std::string& reason, int64_t size_bytes) {
  const auto same = [&reason](const Kind& kind) { return kind.reason == reason; };
  auto kind = std::find_if(kinds_.begin(), kinds_.end(), same);
  if (kind == kinds_.end()) kind = kinds_.insert(kind, Kind{name, reason, 0, 0});
  ++kind->count;
  kind->size_bytes += size_bytes;
}

std::vector<KeptTensors::Line> KeptTensors::Lines() const {
  std::vector<Line> lines;
  for (const Kind& kind : kinds_) {
    const bool alone = kind.count == 1;
    lines.push_back({alone ? Printable(kind.first_name)
                           : absl::StrCat("(", WithCommas(kind.count), " tensors)"),
                     absl::StrCat(alone ? "" : WithCommas(kind.count) + " ", "kept: ",
                                  Printable(kind.reason)),
                     kind.size_bytes});
  }
  return lines;
}

std::string ReportTable(const std::vector<TensorRow>& rows, size_t columns) {
  using enum Table::Align;
  using enum Table::Fit;
  Table table({{"tensor", kLeft, kShrink},
               {"shape", kLeft, kDrop},
               {"before", kRight, kDrop},
               {"after", kRight},
               {"SQNR dB", kRight},
               {"cosine", kRight, kDrop},
               {"clipped", kRight},
               {"note", kLeft, kWrap}});
  const auto add = [&](const std::string& name, const std::string& shape, int64_t before_bytes,
                       int64_t after_bytes, const Figures* figures, std::optional<int64_t> clipped,
                       const std::string& note) {
    table.AddRow({name, shape, HumanBytes(before_bytes), HumanBytes(after_bytes),
                  figures == nullptr ? "" : SqnrText(*figures),
                  figures == nullptr ? "" : CosineText(*figures),
                  clipped.has_value() ? WithCommas(*clipped) : "", note});
  };
  KeptTensors kept;
  for (const TensorRow& row : rows) {
    if (!row.kept.empty()) {
      kept.Add(row.tensor.name, row.kept, row.before_bytes);
      continue;
    }
    add(Printable(row.tensor.name), ShapeText(row.tensor.shape), row.before_bytes, row.after_bytes,
        row.figures.has_value() ? &*row.figures : nullptr, row.clipped, Printable(row.note));
  }
  for (const KeptTensors::Line& line : kept.Lines()) {
    add(line.name, "", line.size_bytes, line.size_bytes, nullptr, std::nullopt, line.note);
  }
  if (rows.size() < 2) return table.Text(columns);
  const Totals totals = Sum(rows);
  std::string note;
  if (totals.after_bytes > 0) {
    note = absl::StrFormat("%.2fx smaller", static_cast<double>(totals.before_bytes) /
                                                static_cast<double>(totals.after_bytes));
  }
  table.AddRule();
  add(absl::StrCat(rows.size(), " tensors"), "", totals.before_bytes, totals.after_bytes,
      totals.measured > 0 ? &totals.figures : nullptr, totals.clipped, note);
  return table.Text(columns);
}

Json ToJson(const Shape& shape) {
  return std::vector<int64_t>(shape.dims().begin(), shape.dims().end());
}

Json ToJson(const Figures& figures) {
  Json json;
  json["lossless"] = figures.Lossless();
  json["overflowed"] = Overflowed(figures);
  json["sqnr_db"] = Optional(figures.SqnrDb());
  json["cosine"] = Optional(figures.Cosine());
  json["mse"] = Optional(figures.Mse());
  json["mean"] = Optional(figures.Mean());
  json["std_dev"] = Optional(figures.StdDev());
  const bool any = figures.count > 0;
  json["min"] = any ? Json(figures.min) : Json(nullptr);
  json["max"] = any ? Json(figures.max) : Json(nullptr);
  json["max_error"] = any ? Json(figures.max_error) : Json(nullptr);
  json["max_error_elem"] = figures.max_error_elem;
  json["count"] = figures.count;
  json["signal_energy"] = figures.signal_energy;
  json["error_energy"] = figures.error_energy;
  json["cross_energy"] = figures.cross_energy;
  return json;
}

Json ToJson(const TensorRow& row) {
  Json json;
  json["name"] = row.tensor.name;
  json["dtype"] = std::string(NameOf(row.tensor.dtype));
  json["shape"] = ToJson(row.tensor.shape);
  json["before_bytes"] = row.before_bytes;
  json["after_bytes"] = row.after_bytes;
  json.update(row.details);
  if (row.figures.has_value()) json["figures"] = ToJson(*row.figures);
  json["note"] = row.kept.empty() ? row.note : absl::StrCat("kept: ", row.kept);
  return json;
}

Json TotalsJson(const std::vector<TensorRow>& rows) {
  const Totals totals = Sum(rows);
  Json json;
  json["tensors"] = rows.size();
  json["before_bytes"] = totals.before_bytes;
  json["after_bytes"] = totals.after_bytes;
  if (totals.clipped.has_value()) json["clipped"] = *totals.clipped;
  if (totals.measured > 0) {
    json["lossless"] = totals.figures.Lossless();
    json["overflowed"] = Overflowed(totals.figures);
    json["sqnr_db"] = Optional(totals.figures.SqnrDb());
    json["cosine"] = Optional(totals.figures.Cosine());
  }
  return json;
}

void PrintJson(const Json& json, FILE* out) {
  fputs((json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), out);
}

}  // namespace quantd::cli
