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

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/io/quote.h"

namespace quantd {
namespace {

constexpr absl::string_view kMetadataKey = "__metadata__";

struct Row {
  const char* name;
  std::optional<DType> dtype;  // absent: none of ours
  int64_t bits = 0;            // of one element, where dtype is absent
};

// The order of `enum Dtype` in tensor.rs: by alignment.
constexpr Row kRows[] = {
    {"BOOL", DType::kBool},
    {"F4", std::nullopt, 4},
    {"F6_E2M3", std::nullopt, 6},
    {"F6_E3M2", std::nullopt, 6},
    {"U8", DType::kUint8},
    {"I8", DType::kInt8},
    {"F8_E5M2", DType::kF8E5M2},
    {"F8_E4M3", DType::kF8E4M3},
    {"F8_E8M0", std::nullopt, 8},
    {"F8_E4M3FNUZ", std::nullopt, 8},
    {"F8_E5M2FNUZ", std::nullopt, 8},
    {"I16", DType::kInt16},
    {"U16", DType::kUint16},
    {"F16", DType::kF16},
    {"BF16", DType::kBf16},
    {"I32", DType::kInt32},
    {"U32", DType::kUint32},
    {"F32", DType::kF32},
    {"C64", std::nullopt, 64},
    {"F64", DType::kF64},
    {"I64", DType::kInt64},
    {"U64", DType::kUint64},
};

const Row* FindRow(absl::string_view name) {
  for (const Row& row : kRows) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

const Row* FindRow(const StoredTensor& tensor) {
  if (tensor.is_foreign()) return FindRow(tensor.foreign_type);
  for (const Row& row : kRows) {
    if (row.dtype == tensor.desc.dtype) return &row;
  }
  return nullptr;
}

// True for what a later version of the format may call a type.
bool MayNameAType(absl::string_view name) {
  constexpr size_t kMaxBytes = 32;
  const auto is_allowed = [](char c) {
    return absl::ascii_isupper(static_cast<unsigned char>(c)) ||
           absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '_';
  };
  return !name.empty() && name.size() <= kMaxBytes &&
         absl::ascii_isupper(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), is_allowed);
}

absl::Status UnknownType(absl::string_view name) {
  const auto append_name = [](std::string* out, const Row& row) { out->append(row.name); };
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown dtype ", Quote(name), "; known: ", absl::StrJoin(kRows, ", ", append_name)));
}

// Returns kInvalidArgument unless `size_bytes` are the tensor's by its type, as far as this is
// known.
absl::Status CheckSize(const StoredTensor& tensor, int64_t size_bytes) {
  absl::StatusOr<int64_t> expected = size_bytes;
  if (!tensor.is_foreign()) {
    expected = SizeBytes(tensor.desc);
  } else if (const Row* const row = FindRow(tensor.foreign_type); row != nullptr) {
    expected = CheckedMul(tensor.desc.shape.num_elems(), row->bits);
    if (expected.ok() && *expected % 8 != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.desc.shape.Text(), " ", TypeName(tensor), " are no whole bytes"));
    }
    if (expected.ok()) *expected /= 8;
  }
  if (!expected.ok()) return expected.status();
  if (*expected == size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("do not hold the ", *expected, " bytes of ",
                                                 tensor.desc.shape.Text(), " ", TypeName(tensor)));
}

// Writes JSON token by token, as they were read. Not thread-safe.
class JsonText {
 public:
  void Key(absl::string_view name) {
    Value(name);
    text_.push_back(':');
    wants_comma_ = false;
  }
  // Adds a value, or a bracket that opens one; `text` is its JSON.
  void Value(absl::string_view text) {
    if (wants_comma_) text_.push_back(',');
    text_.append(text.data(), text.size());
    wants_comma_ = true;
  }
  void Open(char bracket) {
    Value(absl::string_view(&bracket, 1));
    wants_comma_ = false;
    ++depth_;
  }
  void Close(char bracket) {
    text_.push_back(bracket);
    wants_comma_ = true;
    --depth_;
  }
  int depth() const { return depth_; }
  std::string Take() {
    wants_comma_ = false;
    return std::exchange(text_, {});
  }

 private:
  std::string text_;
  bool wants_comma_ = false;
  int depth_ = 0;
};

std::string JsonString(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::ignore);
}

// Takes the header token by token. The parser behind it keeps its own stack, and what is nested
// deeper than the format has is refused at its first bracket. What the format has no key for is
// written down again as it comes (kExtra).
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
          where_ = Where::kExtra;
          extra_.Key(JsonString(text));
        }
        break;
      case Where::kExtra:
        extra_.Key(JsonString(text));
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
    if (where_ == Where::kExtra) return ExtraValue(JsonString(text));
    if (where_ != Where::kTensor || key_ != "dtype") return Unexpected("a string");
    if (tensor_.dtype.has_value()) return Fail("has dtype twice", tensor_.name);
    if (FindRow(text) == nullptr && !MayNameAType(text)) {
      return Fail(UnknownType(text).message(), tensor_.name);
    }
    tensor_.dtype = std::move(text);
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (where_ == Where::kExtra) return ExtraValue(absl::StrCat(value));
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
    } else if (where_ == Where::kExtra) {
      return OpenExtra('{', "an object");
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (where_ == Where::kExtra) return CloseExtra('}');
    if (where_ == Where::kTop) {
      where_ = Where::kDone;
      return true;
    }
    const bool is_tensor = where_ == Where::kTensor;
    where_ = Where::kTop;
    return !is_tensor || AddTensor();
  }

  bool start_array(size_t) override {
    if (where_ == Where::kExtra) return OpenExtra('[', "an array");
    if (where_ != Where::kTensor || key_ == "dtype") return Unexpected("an array");
    std::optional<std::vector<int64_t>>& list = key_ == "shape" ? tensor_.shape : tensor_.offsets;
    if (list.has_value()) return Fail(absl::StrCat("has ", key_, " twice"), tensor_.name);
    list.emplace();
    where_ = key_ == "shape" ? Where::kShape : Where::kOffsets;
    return true;
  }

  bool end_array() override {
    if (where_ == Where::kExtra) return CloseExtra(']');
    where_ = Where::kTensor;
    return true;
  }

  bool null() override {
    if (where_ == Where::kExtra) return ExtraValue("null");
    if (where_ == Where::kTop && key_ == kMetadataKey) return true;
    return Unexpected("null");
  }
  bool boolean(bool value) override {
    if (where_ == Where::kExtra) return ExtraValue(value ? "true" : "false");
    return Unexpected("a boolean");
  }
  bool number_integer(int64_t value) override {
    if (where_ == Where::kExtra) return ExtraValue(absl::StrCat(value));
    return Unexpected(absl::StrCat(value));
  }
  bool number_float(double, const std::string& text) override {
    if (where_ == Where::kExtra) return ExtraValue(text);
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool binary(nlohmann::json::binary_t&) override { return Unexpected("binary"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    status_ = absl::InvalidArgumentError(
        absl::StrCat("header is not JSON in UTF-8, at its byte ", position));
    return false;
  }

 private:
  // Where the next token stands: before the header, in it, in one of its objects, in a list of one,
  // in a value that the format has no key for.
  enum class Where : uint8_t { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kExtra, kDone };

  static constexpr int kMaxExtraDepth = 16;

  struct Partial {
    std::string name;
    std::optional<std::string> dtype;
    std::optional<std::vector<int64_t>> shape, offsets;
  };

  bool ExtraValue(absl::string_view json) {
    extra_.Value(json);
    if (extra_.depth() == 0) where_ = Where::kTensor;
    return true;
  }

  bool OpenExtra(char bracket, absl::string_view what) {
    if (extra_.depth() == kMaxExtraDepth) return Unexpected(absl::StrCat(what, ", too deep,"));
    extra_.Open(bracket);
    return true;
  }

  bool CloseExtra(char bracket) {
    extra_.Close(bracket);
    if (extra_.depth() == 0) where_ = Where::kTensor;
    return true;
  }

  bool Fail(absl::string_view what, absl::string_view name) {
    status_ = absl::InvalidArgumentError(absl::StrCat(Quote(name), ": ", what));
    return false;
  }

  bool Unexpected(absl::string_view found) {
    const bool in_tensor = where_ == Where::kTensor || where_ == Where::kShape ||
                           where_ == Where::kOffsets || where_ == Where::kExtra;
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
    TensorEntry entry;
    entry.desc.name = std::move(tensor_.name);
    entry.desc.shape = *std::move(shape);
    entry.extra = extra_.Take();
    entry.offset_bytes = begin;
    const Row* const row = FindRow(*tensor_.dtype);
    if (row != nullptr && row->dtype.has_value()) {
      entry.desc.dtype = *row->dtype;
    } else {
      entry.desc.dtype = DType::kBool;
      entry.foreign_type = *std::move(tensor_.dtype);
    }
    if (end < begin) return BadOffsets(entry, end, "end before they begin");
    entry.size_bytes = end - begin;
    if (entry.is_foreign()) entry.foreign_bytes = entry.size_bytes;
    if (const absl::Status size = CheckSize(entry, entry.size_bytes); !size.ok()) {
      return BadOffsets(entry, end, size.message());
    }
    index_.tensors.push_back(std::move(entry));
    return true;
  }

  bool BadOffsets(const TensorEntry& entry, int64_t end, absl::string_view why) {
    return Fail(absl::StrCat("data_offsets [", entry.offset_bytes, ", ", end, "] ", why),
                entry.desc.name);
  }

  ContainerIndex index_;
  absl::Status status_;
  Where where_ = Where::kStart;
  bool has_metadata_ = false;
  std::string key_;
  Partial tensor_;
  JsonText extra_;  // of tensor_
  absl::flat_hash_set<std::string> names_;
};

// Appends `text` as a JSON string.
absl::Status AppendString(absl::string_view text, std::string& out) {
  const std::string value(text);
  const std::string quoted = JsonString(value);
  // What is not UTF-8 was left out, and so does not come back.
  if (nlohmann::json::parse(quoted, nullptr, false) != value) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quote(text), " is not UTF-8, which safetensors headers are"));
  }
  out.append(quoted);
  return absl::OkStatus();
}

// Returns kInvalidArgument if a header of `size_bytes` is too long.
absl::Status CheckLength(size_t size_bytes, int64_t max_bytes) {
  if (size_bytes <= static_cast<size_t>(max_bytes)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("names and metadata are over the format's limit of ", max_bytes,
                   " bytes; a folder of .npy files has no such limit (--format npy)"));
}

}  // namespace

int SafetensorsRank(const StoredTensor& tensor) {
  const Row* const row = FindRow(tensor);
  return row == nullptr ? 0 : static_cast<int>(row - kRows);
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

absl::StatusOr<std::string> FormatSafetensorsHeader(const ContainerIndex& index,
                                                    int64_t max_bytes) {
  std::string out = "{";
  if (!index.metadata.empty()) {
    absl::StrAppend(&out, "\"", kMetadataKey, "\":{");
    for (const auto& [key, value] : index.metadata) {
      if (out.back() != '{') out.push_back(',');
      QUANTD_RETURN_IF_ERROR(CheckLength(out.size() + key.size() + value.size(), max_bytes));
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
    QUANTD_RETURN_IF_ERROR(CheckLength(out.size() + entry.desc.name.size(), max_bytes));
    QUANTD_RETURN_IF_ERROR(AppendString(entry.desc.name, out));
    const Row* const row = FindRow(entry);
    absl::StrAppend(&out, ":{\"dtype\":\"", row == nullptr ? entry.foreign_type : row->name,
                    "\",\"shape\":[", absl::StrJoin(entry.desc.shape.dims(), ","),
                    "],\"data_offsets\":[", entry.offset_bytes, ",",
                    entry.offset_bytes + entry.size_bytes, "]", entry.extra.empty() ? "" : ",",
                    entry.extra, "}");
  }
  out.push_back('}');
  QUANTD_RETURN_IF_ERROR(CheckLength(out.size(), max_bytes));
  return out;
}

}  // namespace quantd
