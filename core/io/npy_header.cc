// The header of a npy file is the text of a Python dict, which numpy writes and others write a bit
// differently: in any order, with either quote, with or without a comma at the end.
//
//   {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
//
// DictReader takes that much of Python and nothing else, from left to right, without recursion:
// each of the three keys once, no escapes in strings, at most kMaxDictBytes. "(3)" is refused, as
// it is a number in Python; '|O' as well, as object arrays hold pickles, which run code when read.
// Python 2 wrote long integers, (10L,), and numpy takes every name that it knows of a type for
// descr: 'f4', '=f4', 'float32', 'single' and 'f' are one type, and '>f4' is the same with bytes
// swapped.
//
// Source: numpy/lib/format.py, numpy/core/numerictypes.py (names, of 64-bit Linux). Entries:
// ParseNpyHeader and FormatNpyHeader. Tested by tests/core/io/npy_test.cc and
// tests/fuzz/npy_fuzz.cc.
#include "core/io/npy_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/io/quote.h"

namespace quantd {
namespace {

constexpr uint32_t kMaxDictBytes = kMaxNpyHeaderBytes - 12;

struct Row {
  DType dtype;
  absl::string_view descr;  // as it is written; '<' and '|' are exchangeable when read
};

constexpr std::array<Row, kNumDTypes> kRows = {{
    {DType::kF64, "<f8"},
    {DType::kF32, "<f4"},
    {DType::kF16, "<f2"},
    {DType::kBf16, "<V2"},
    {DType::kInt8, "|i1"},
    {DType::kInt16, "<i2"},
    {DType::kInt32, "<i4"},
    {DType::kInt64, "<i8"},
    {DType::kUint8, "|u1"},
    {DType::kUint16, "<u2"},
    {DType::kUint32, "<u4"},
    {DType::kUint64, "<u8"},
    {DType::kBool, "|b1"},
    {DType::kF8E4M3, "|V1"},
    {DType::kF8E5M2, "|V1"},
}};

// Other names that numpy, and ml_dtypes with it, takes for a type.
struct Alias {
  absl::string_view name;
  DType dtype;
};

constexpr Alias kAliases[] = {
    {"float64", DType::kF64},
    {"double", DType::kF64},
    {"float", DType::kF64},
    {"d", DType::kF64},
    {"float32", DType::kF32},
    {"single", DType::kF32},
    {"f", DType::kF32},
    {"float16", DType::kF16},
    {"half", DType::kF16},
    {"e", DType::kF16},
    {"bfloat16", DType::kBf16},
    {"float8_e4m3fn", DType::kF8E4M3},
    {"float8_e5m2", DType::kF8E5M2},
    {"int8", DType::kInt8},
    {"byte", DType::kInt8},
    {"b", DType::kInt8},
    {"int16", DType::kInt16},
    {"short", DType::kInt16},
    {"h", DType::kInt16},
    {"int32", DType::kInt32},
    {"intc", DType::kInt32},
    {"i", DType::kInt32},
    {"int64", DType::kInt64},
    {"int", DType::kInt64},
    {"int_", DType::kInt64},
    {"intp", DType::kInt64},
    {"long", DType::kInt64},
    {"longlong", DType::kInt64},
    {"l", DType::kInt64},
    {"q", DType::kInt64},
    {"p", DType::kInt64},
    {"uint8", DType::kUint8},
    {"ubyte", DType::kUint8},
    {"B", DType::kUint8},
    {"uint16", DType::kUint16},
    {"ushort", DType::kUint16},
    {"H", DType::kUint16},
    {"uint32", DType::kUint32},
    {"uintc", DType::kUint32},
    {"I", DType::kUint32},
    {"uint64", DType::kUint64},
    {"uint", DType::kUint64},
    {"uintp", DType::kUint64},
    {"ulong", DType::kUint64},
    {"ulonglong", DType::kUint64},
    {"L", DType::kUint64},
    {"Q", DType::kUint64},
    {"P", DType::kUint64},
    {"bool", DType::kBool},
    {"bool_", DType::kBool},
    {"?", DType::kBool},
};

// Arrays that numpy has and this does not read, by the letter after the byte order, or a word.
struct Unread {
  absl::string_view letters, word, what;
};

constexpr Unread kUnread[] = {
    {"O", "object", "object arrays hold pickles, which run code when read; save numbers"},
    {"cFDG", "complex", "complex numbers are not read; save their real and imaginary parts"},
    {"USa", "str", "text is not read; save numbers"},
    {"Mm", "datetime", "times are not read; save them as integers, astype('int64')"},
    {"g", "longdouble", "long double is not read; save it as float64"},
};

absl::string_view DescrOf(DType dtype) {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) return row.descr;
  }
  return "";
}

// Reads the dict literal: a strict subset of Python, without recursion.
class DictReader {
 public:
  explicit DictReader(absl::string_view text) : text_(text), rest_(text) {}

  absl::Status Read() {
    if (!Eat('{')) return Expected("{");
    while (!Eat('}')) {
      QUANTD_ASSIGN_OR_RETURN(const absl::string_view key, ReadString());
      if (!Eat(':')) return Expected(":");
      QUANTD_RETURN_IF_ERROR(ReadValue(key));
      if (Eat(',')) continue;
      if (!Eat('}')) return Expected(", or }");
      break;
    }
    SkipSpace();
    if (!rest_.empty()) return Expected("nothing more");
    if (!descr || !fortran_order || !dims) {
      return absl::InvalidArgumentError("header needs descr, fortran_order and shape");
    }
    return absl::OkStatus();
  }

  std::optional<absl::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<int64_t>> dims;

 private:
  absl::Status ReadValue(absl::string_view key) {
    if (key == "descr" && !descr) {
      if (Eat('[')) {
        return absl::UnimplementedError(
            "structured arrays are not read; save their fields as arrays of their own");
      }
      QUANTD_ASSIGN_OR_RETURN(descr, ReadString());
      return absl::OkStatus();
    }
    if (key == "fortran_order" && !fortran_order) {
      if (EatWord("True")) {
        fortran_order = true;
      } else if (EatWord("False")) {
        fortran_order = false;
      } else {
        return Expected("True or False");
      }
      return absl::OkStatus();
    }
    if (key == "shape" && !dims) return ReadShape();
    return absl::InvalidArgumentError(
        absl::StrCat("header has the key ", Quote(key), " twice, or not one of the format's"));
  }

  absl::Status ReadShape() {
    dims.emplace();
    if (!Eat('(')) return Expected("(");
    while (!Eat(')')) {
      QUANTD_ASSIGN_OR_RETURN(const int64_t dim, ReadDim());
      if (dims->size() == size_t{kMaxRank}) {
        return absl::InvalidArgumentError(
            absl::StrCat("shape has more than ", kMaxRank, " dimensions"));
      }
      dims->push_back(dim);
      if (Eat(',')) continue;
      // "(3)" is an integer in Python, not a tuple.
      if (dims->size() == 1 || !Eat(')')) return Expected(",");
      break;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> ReadDim() {
    SkipSpace();
    size_t digits = 0;
    while (digits < rest_.size() && absl::ascii_isdigit(static_cast<unsigned char>(rest_[digits])))
      ++digits;
    const absl::string_view token = rest_.substr(0, digits);
    int64_t dim;
    if (token.empty() || (token[0] == '0' && digits > 1)) return Expected("a dimension");
    if (!absl::SimpleAtoi(token, &dim)) {
      return absl::InvalidArgumentError(
          absl::StrCat("dimension ", Quote(token), " is over 2^63 - 1"));
    }
    rest_.remove_prefix(digits);
    if (!rest_.empty() && (rest_[0] == 'L' || rest_[0] == 'l')) rest_.remove_prefix(1);
    return dim;
  }

  absl::StatusOr<absl::string_view> ReadString() {
    SkipSpace();
    if (rest_.size() > 1 && absl::StrContains("uU", rest_[0]) &&
        absl::StrContains("'\"", rest_[1])) {
      rest_.remove_prefix(1);  // text, as Python 2 marks it
    }
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) return Expected("a string");
    const size_t end = rest_.find(rest_[0], 1);
    if (end == absl::string_view::npos) return Expected("the end of a string");
    const absl::string_view text = rest_.substr(1, end - 1);
    if (text.find('\\') != absl::string_view::npos) return Expected("a string without escapes");
    rest_.remove_prefix(end + 1);
    return text;
  }

  bool Eat(char expected) {
    SkipSpace();
    if (rest_.empty() || rest_[0] != expected) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool EatWord(absl::string_view word) {
    SkipSpace();
    if (rest_.substr(0, word.size()) != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }

  void SkipSpace() {
    while (!rest_.empty() && absl::StrContains(" \t\r\n", rest_[0])) rest_.remove_prefix(1);
  }

  absl::Status Expected(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("header is not the format's dict: byte ",
                                                   text_.size() - rest_.size(), " should have ",
                                                   what, ", has ", Quote(rest_.substr(0, 8))));
  }

  absl::string_view text_, rest_;
};

// Returns the dict's text within `file`.
absl::StatusOr<absl::string_view> FindDict(std::span<const std::byte> file) {
  const absl::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.substr(0, kNpyMagic.size()) != kNpyMagic.substr(0, text.size())) {
    return absl::InvalidArgumentError("file does not begin with \\x93NUMPY");
  }
  const size_t version_end = kNpyMagic.size() + 2;
  if (text.size() < version_end) {
    return absl::DataLossError(
        absl::StrCat("file ends after ", text.size(), " bytes, within the npy header"));
  }
  const int major = static_cast<unsigned char>(text[6]);
  const int minor = static_cast<unsigned char>(text[7]);
  if (major < 1 || major > 3 || minor != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("npy version ", major, ".", minor, " is not 1.0, 2.0 or 3.0"));
  }
  const size_t length_bytes = major == 1 ? 2 : 4;
  uint32_t dict_bytes = 0;
  if (text.size() - version_end < length_bytes) {
    return absl::DataLossError(
        absl::StrCat("file ends after ", text.size(), " bytes, within the npy header"));
  }
  std::memcpy(&dict_bytes, text.data() + version_end, length_bytes);
  if (dict_bytes > kMaxDictBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("header length ", dict_bytes, " is over the limit of ", kMaxDictBytes));
  }
  const absl::string_view rest = text.substr(version_end + length_bytes);
  if (rest.size() < dict_bytes) {
    return absl::DataLossError(absl::StrCat("header of ", dict_bytes,
                                            " bytes does not fit into the file's ", text.size()));
  }
  return rest.substr(0, dict_bytes);
}

// What a descr says.
struct ElemType {
  DType dtype;
  bool big_endian = false;
};

// Returns the type called `kind`, a descr without its byte order; nothing if none is.
std::optional<DType> FindType(absl::string_view kind, bool has_order) {
  for (const Row& row : kRows) {
    if (kind == row.descr.substr(1) && row.descr[1] != 'V') return row.dtype;
  }
  for (const Alias& alias : kAliases) {
    // numpy takes an order before letters, and none before words.
    if (kind == alias.name && (!has_order || kind.size() == 1)) return alias.dtype;
  }
  return std::nullopt;
}

// Returns kUnimplemented, with what to do, if `kind` is one of kUnread.
absl::Status CheckRead(absl::string_view descr, absl::string_view kind) {
  const bool is_word = kind.size() > 1 && absl::ascii_isalpha(static_cast<unsigned char>(kind[1]));
  const char letter = kind.empty() || is_word ? '\0' : kind == "f16" ? 'g' : kind[0];
  for (const Unread& unread : kUnread) {
    if (absl::StrContains(unread.letters, letter) ||
        (letter == '\0' && !unread.word.empty() && absl::StartsWith(kind, unread.word))) {
      return absl::UnimplementedError(absl::StrCat("descr ", Quote(descr), ": ", unread.what));
    }
  }
  return absl::OkStatus();
}

absl::Status UnknownDescr(absl::string_view descr, absl::string_view kind) {
  if (kind == "V2" || kind == "V1" || kind == "f1") {
    return absl::InvalidArgumentError(
        absl::StrCat("descr ", Quote(descr), " does not say what the values are; give a dtype (",
                     kind == "V2" ? "bf16" : "f8_e4m3, f8_e5m2", ")"));
  }
  std::string known;
  for (const Row& row : kRows) {
    if (row.descr[1] != 'V') absl::StrAppend(&known, known.empty() ? "" : ", ", row.descr);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown descr ", Quote(descr), "; known: ", known));
}

// Returns the type that `descr` names, or `asked` where that may stand for it.
absl::StatusOr<ElemType> ResolveType(absl::string_view descr, std::optional<DType> asked) {
  const bool has_order = !descr.empty() && absl::StrContains("<>|=", descr[0]);
  const absl::string_view kind = descr.substr(has_order ? 1 : 0);
  QUANTD_RETURN_IF_ERROR(CheckRead(descr, kind));
  std::optional<DType> found = FindType(kind, has_order);
  if (asked.has_value() && found != asked) {
    const std::string size_text = absl::StrCat(SizeOf(*asked));
    const bool is_unnamed = kind == absl::StrCat("V", size_text) ||
                            kind == absl::StrCat("u", size_text) ||
                            (kind == "f1" && DescrOf(*asked) == "|V1");
    if (!is_unnamed) {
      return absl::InvalidArgumentError(
          absl::StrCat("dtype ", NameOf(*asked), " does not fit the file's descr ", Quote(descr)));
    }
    found = asked;
  }
  if (!found.has_value()) return UnknownDescr(descr, kind);
  // What numpy calls void has no byte order.
  const bool is_big = has_order && descr[0] == '>' && kind[0] != 'V';
  return ElemType{*found, is_big && SizeOf(*found) > 1};
}

// True if the order of dimensions makes no difference.
bool HasOneOrder(const Shape& shape) {
  const auto is_long = [](int64_t dim) { return dim > 1; };
  return shape.num_elems() == 0 ||
         std::count_if(shape.dims().begin(), shape.dims().end(), is_long) < 2;
}

}  // namespace

absl::StatusOr<NpyHeader> ParseNpyHeader(std::span<const std::byte> head,
                                         std::optional<DType> dtype) {
  QUANTD_ASSIGN_OR_RETURN(const absl::string_view text, FindDict(head));
  DictReader dict(text);
  QUANTD_RETURN_IF_ERROR(dict.Read());
  QUANTD_ASSIGN_OR_RETURN(const ElemType type, ResolveType(*dict.descr, dtype));
  QUANTD_ASSIGN_OR_RETURN(Shape shape, Shape::Make(*std::move(dict.dims)));
  const ValueOrder order = {*dict.fortran_order && !HasOneOrder(shape), type.big_endian};
  const int64_t data_offset_bytes =
      text.data() + text.size() - reinterpret_cast<const char*>(head.data());
  return NpyHeader{type.dtype, std::move(shape), data_offset_bytes, order};
}

std::string FormatNpyHeader(DType dtype, const Shape& shape) {
  constexpr int64_t kAlignment = 64, kPrefixBytes = 10;
  std::string dict =
      absl::StrCat("{'descr': '", DescrOf(dtype), "', 'fortran_order': False, 'shape': (",
                   absl::StrJoin(shape.dims(), ", "), shape.rank() == 1 ? ",), }" : "), }");
  const int64_t plain_bytes = kPrefixBytes + static_cast<int64_t>(dict.size()) + 1;
  dict.append(static_cast<size_t>(RoundUp(plain_bytes, kAlignment) - plain_bytes), ' ');
  dict.push_back('\n');
  const uint16_t dict_bytes = static_cast<uint16_t>(dict.size());
  std::string out(kNpyMagic);
  out.append("\x01\x00", 2);
  out.append(reinterpret_cast<const char*>(&dict_bytes), sizeof(dict_bytes));
  return out.append(dict);
}

}  // namespace quantd
