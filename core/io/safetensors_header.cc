// The header of a safetensors file, up to 100 MB of JSON from outside, read token by token into the
// index, without a tree in between:
//
//   {"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}
//   kTop  kTensor               kShape                kOffsets
//
// A small machine says what may come next; what the format does not have is refused at its first
// token. So memory is in proportion to the text, and brackets nested a million deep cost nothing.
// Names twice are refused, which most JSON parsers let pass, the last one winning.
//
// Source: huggingface/safetensors, safetensors/src/tensor.rs. Entries: ParseSafetensorsHeader and
// FormatSafetensorsHeader. Tested by tests/core/io/safetensors_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
#include "core/io/safetensors_header.h"

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/io/quote.h"

namespace quantd {
namespace {

constexpr absl::string_view kMetadataKey = "__metadata__";

struct Row {
  DType dtype;
  const char* name;
};

// The order of `enum Dtype` in tensor.rs: by alignment.
constexpr std::array<Row, kNumDTypes> kRows = {{
    {DType::kBool, "BOOL"},
    {DType::kUint8, "U8"},
    {DType::kInt8, "I8"},
    {DType::kF8E5M2, "F8_E5M2"},
    {DType::kF8E4M3, "F8_E4M3"},
    {DType::kInt16, "I16"},
    {DType::kUint16, "U16"},
    {DType::kF16, "F16"},
    {DType::kBf16, "BF16"},
    {DType::kInt32, "I32"},
    {DType::kUint32, "U32"},
    {DType::kF32, "F32"},
    {DType::kF64, "F64"},
    {DType::kInt64, "I64"},
    {DType::kUint64, "U64"},
}};

absl::StatusOr<DType> ParseFormatDType(absl::string_view name) {
  for (const Row& row : kRows) {
    if (name == row.name) return row.dtype;
  }
  const auto append_name = [](std::string* out, const Row& row) { out->append(row.name); };
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown dtype ", Quote(name), "; known: ", absl::StrJoin(kRows, ", ", append_name)));
}

// Takes the header token by token. The parser behind it keeps its own stack, and what is nested
// deeper than the format has is refused at its first bracket.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  absl::StatusOr<ContainerIndex> Take(bool complete) {
    if (!status_.ok()) return status_;
    if (!complete) return absl::InvalidArgumentError("header is not a JSON object");
    return std::move(index_);
  }

  bool key(std::string& text) override {
    switch (where_) {
      case Where::kTop:
        if (text != kMetadataKey) {
          if (!names_.insert(text).second) return Fail("is there twice", text);
          tensor_ = {};
          tensor_.name = text;
        } else if (std::exchange(has_metadata_, true)) {
          return Fail("is there twice", text);
        }
        break;
      case Where::kMetadata:
        if (index_.metadata.count(text) > 0) return Fail("is there twice", text);
        break;
      case Where::kTensor:
        if (text != "dtype" && text != "shape" && text != "data_offsets") {
          return Fail(absl::StrCat("has the unknown key ", Quote(text)), tensor_.name);
        }
        break;
      case Where::kStart:
      case Where::kShape:
      case Where::kOffsets:
      case Where::kDone:
        break;  // no object there
    }
    key_ = std::move(text);
    return true;
  }

  bool string(std::string& text) override {
    if (where_ == Where::kMetadata) {
      index_.metadata.emplace(key_, std::move(text));
      return true;
    }
    if (where_ != Where::kTensor || key_ != "dtype") return Unexpected("a string");
    if (tensor_.dtype.has_value()) return Fail("has dtype twice", tensor_.name);
    absl::StatusOr<DType> dtype = ParseFormatDType(text);
    if (!dtype.ok()) return Fail(dtype.status().message(), tensor_.name);
    tensor_.dtype = *dtype;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (where_ != Where::kShape && where_ != Where::kOffsets) return Unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Fail(absl::StrCat(key_, " has ", value, "; at most 2^63 - 1 is allowed"),
                  tensor_.name);
    }
    std::vector<int64_t>& list = where_ == Where::kShape ? *tensor_.shape : *tensor_.offsets;
    if (list.size() == (where_ == Where::kShape ? size_t{kMaxRank} : size_t{2})) {
      return Fail(absl::StrCat(key_, " has more than ", list.size(), " numbers"), tensor_.name);
    }
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool start_object(size_t) override {
    if (where_ == Where::kStart) {
      where_ = Where::kTop;
    } else if (where_ == Where::kTop) {
      where_ = key_ == kMetadataKey ? Where::kMetadata : Where::kTensor;
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (where_ == Where::kTop) {
      where_ = Where::kDone;
      return true;
    }
    const bool is_tensor = where_ == Where::kTensor;
    where_ = Where::kTop;
    return !is_tensor || AddTensor();
  }

  bool start_array(size_t) override {
    if (where_ != Where::kTensor || key_ == "dtype") return Unexpected("an array");
    std::optional<std::vector<int64_t>>& list = key_ == "shape" ? tensor_.shape : tensor_.offsets;
    if (list.has_value()) return Fail(absl::StrCat("has ", key_, " twice"), tensor_.name);
    list.emplace();
    where_ = key_ == "shape" ? Where::kShape : Where::kOffsets;
    return true;
  }

  bool end_array() override {
    where_ = Where::kTensor;
    return true;
  }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(int64_t value) override { return Unexpected(absl::StrCat(value)); }
  bool number_float(double, const std::string& text) override {
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool binary(nlohmann::json::binary_t&) override { return Unexpected("binary"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    status_ = absl::InvalidArgumentError(
        absl::StrCat("header is not JSON in UTF-8, at its byte ", position));
    return false;
  }

 private:
  // Where the next token stands: before the header, in it, in one of its objects, in a list of one.
  enum class Where : uint8_t { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kDone };

  struct Partial {
    std::string name;
    std::optional<DType> dtype;
    std::optional<std::vector<int64_t>> shape, offsets;
  };

  bool Fail(absl::string_view what, absl::string_view name) {
    status_ = absl::InvalidArgumentError(absl::StrCat(Quote(name), ": ", what));
    return false;
  }

  bool Unexpected(absl::string_view found) {
    const bool in_tensor =
        where_ == Where::kTensor || where_ == Where::kShape || where_ == Where::kOffsets;
    status_ = absl::InvalidArgumentError(
        absl::StrCat("header has ", found, " where the format has none, at ",
                     in_tensor ? absl::StrCat(Quote(tensor_.name), ", ") : "", Quote(key_)));
    return false;
  }

  bool AddTensor() {
    if (!tensor_.dtype || !tensor_.shape || !tensor_.offsets || tensor_.offsets->size() != 2) {
      return Fail("needs dtype, shape and data_offsets of two numbers", tensor_.name);
    }
    const int64_t begin = (*tensor_.offsets)[0], end = (*tensor_.offsets)[1];
    absl::StatusOr<Shape> shape = Shape::Make(*std::move(tensor_.shape));
    if (!shape.ok()) return Fail(shape.status().message(), tensor_.name);
    TensorEntry entry = {{std::move(tensor_.name), *tensor_.dtype, *std::move(shape)}, begin, 0};
    const absl::StatusOr<int64_t> size_bytes = SizeBytes(entry.desc);
    if (!size_bytes.ok()) return Fail(size_bytes.status().message(), entry.desc.name);
    if (end < begin || end - begin != *size_bytes) {
      return Fail(
          absl::StrCat("data_offsets [", begin, ", ", end, "] do not hold the ", *size_bytes,
                       " bytes of ", entry.desc.shape.Text(), " ", NameOf(entry.desc.dtype)),
          entry.desc.name);
    }
    entry.size_bytes = *size_bytes;
    index_.tensors.push_back(std::move(entry));
    return true;
  }

  ContainerIndex index_;
  absl::Status status_;
  Where where_ = Where::kStart;
  bool has_metadata_ = false;
  std::string key_;
  Partial tensor_;
  absl::flat_hash_set<std::string> names_;
};

absl::Status TooLong() {
  return absl::InvalidArgumentError(absl::StrCat(
      "names and metadata are over the format's limit of ", kMaxSafetensorsHeaderBytes, " bytes"));
}

// Appends `text` as a JSON string.
absl::Status AppendString(absl::string_view text, std::string& out) {
  if (out.size() + text.size() > static_cast<size_t>(kMaxSafetensorsHeaderBytes)) return TooLong();
  const std::string value(text);
  const std::string quoted =
      nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::ignore);
  // What is not UTF-8 was left out, and so does not come back.
  if (nlohmann::json::parse(quoted, nullptr, false) != value) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quote(text), " is not UTF-8, which safetensors headers are"));
  }
  out.append(quoted);
  return absl::OkStatus();
}

}  // namespace

int SafetensorsRank(DType dtype) {
  int rank = 0;
  while (kRows[static_cast<size_t>(rank)].dtype != dtype) ++rank;
  return rank;
}

absl::StatusOr<ContainerIndex> ParseSafetensorsHeader(absl::string_view json) {
  // The JSON parser takes a NUL for the end of the text and would not see what follows.
  if (const size_t nul = json.find('\0'); nul != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("header has a NUL, at its byte ", nul));
  }
  if (json.empty() || json[0] != '{') {
    return absl::InvalidArgumentError("header does not begin with {");
  }
  HeaderHandler handler;
  const bool complete = nlohmann::json::sax_parse(json.begin(), json.end(), &handler);
  return handler.Take(complete);
}

absl::StatusOr<std::string> FormatSafetensorsHeader(const ContainerIndex& index) {
  std::string out = "{";
  if (!index.metadata.empty()) {
    absl::StrAppend(&out, "\"", kMetadataKey, "\":{");
    for (const auto& [key, value] : index.metadata) {
      if (out.back() != '{') out.push_back(',');
      QUANTD_RETURN_IF_ERROR(AppendString(key, out));
      out.push_back(':');
      QUANTD_RETURN_IF_ERROR(AppendString(value, out));
    }
    out.push_back('}');
  }
  for (const TensorEntry& entry : index.tensors) {
    if (entry.desc.name == kMetadataKey) {
      return absl::InvalidArgumentError(
          absl::StrCat("a tensor cannot be called ", kMetadataKey, " in safetensors"));
    }
    if (out.size() > 1) out.push_back(',');
    QUANTD_RETURN_IF_ERROR(AppendString(entry.desc.name, out));
    absl::StrAppend(
        &out, ":{\"dtype\":\"", kRows[static_cast<size_t>(SafetensorsRank(entry.desc.dtype))].name,
        "\",\"shape\":[", absl::StrJoin(entry.desc.shape.dims(), ","), "],\"data_offsets\":[",
        entry.offset_bytes, ",", entry.offset_bytes + entry.size_bytes, "]}");
  }
  out.push_back('}');
  if (out.size() > static_cast<size_t>(kMaxSafetensorsHeaderBytes)) return TooLong();
  return out;
}

}  // namespace quantd
