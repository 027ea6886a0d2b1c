#include "core/io/npy.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/io/container.h"
#include "core/io/npy_header.h"
#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsBytes;
using io_test::Desc;
using io_test::ExpectError;
using io_test::GetFile;
using io_test::Npy;
using io_test::PutFile;
using io_test::ValuesOf;
using testing::TempDir;

using Code = absl::StatusCode;

constexpr absl::string_view kDict = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n";

absl::StatusOr<ContainerIndex> Read(const std::string& file, std::optional<DType> dtype = {}) {
  OpenOptions options;
  options.dtype = dtype;
  return FindContainer("npy").value()->read_index(MemoryBytes(AsBytes(file)), "stem", options);
}

// Reads an array of version 1.0 whose dict is kDict with `from` replaced.
absl::StatusOr<ContainerIndex> ReadWith(absl::string_view from, absl::string_view to,
                                        std::optional<DType> dtype = {}, size_t value_bytes = 4) {
  return Read(Npy(1, absl::StrReplaceAll(kDict, {{from, to}}), std::string(value_bytes, 'x')),
              dtype);
}

TEST(NpyTest, ReadsEachVersionAndSpelling) {
  const absl::string_view kDicts[] = {
      kDict,
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
      "{\"shape\":(1,),\"fortran_order\":True,\"descr\":\"=f4\"}   \n",
      "  { 'fortran_order' : False ,\t'descr' : '|f4' ,\r\n'shape' : ( 1 , ) , } \n",
  };
  for (const absl::string_view dict : kDicts) {
    for (const char version : {1, 2, 3}) {
      const absl::StatusOr<ContainerIndex> index = Read(Npy(version, dict, "xxxx"));
      ASSERT_TRUE(index.ok()) << index.status() << " " << dict;
      ASSERT_EQ(index->tensors.size(), 1u);
      EXPECT_EQ(index->tensors[0].desc, Desc("stem", DType::kF32, {1}));
      EXPECT_EQ(index->tensors[0].size_bytes, 4);
      EXPECT_EQ(index->tensors[0].offset_bytes,
                static_cast<int64_t>(dict.size()) + (version == 1 ? 10 : 12));
    }
  }
}

TEST(NpyTest, ReadsShapes) {
  const struct {
    absl::string_view text;
    std::vector<int64_t> dims;
  } kCases[] = {{"()", {}},
                {"(1,)", {1}},
                {"(1, 1)", {1, 1}},
                {"(1,1,)", {1, 1}},
                {"(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)", std::vector<int64_t>(16, 1)}};
  for (const auto& c : kCases) {
    const absl::StatusOr<ContainerIndex> index = ReadWith("(1,)", c.text);
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(index->tensors[0].desc, Desc("stem", DType::kF32, c.dims));
  }
  const absl::StatusOr<ContainerIndex> empty =
      ReadWith("(1,)", "(9223372036854775807, 0)", std::nullopt, 0);
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->tensors[0].size_bytes, 0);
}

// Beyond what is read at first.
TEST(NpyTest, ReadsHeadersThatAreLong) {
  for (const size_t spaces : {size_t{4000}, size_t{4096}, size_t{60000}}) {
    const absl::StatusOr<ContainerIndex> index =
        ReadWith(", }", absl::StrCat(",", std::string(spaces, ' '), "}"));
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(index->tensors[0].size_bytes, 4);
    EXPECT_GT(index->tensors[0].offset_bytes, static_cast<int64_t>(spaces));
  }
}

TEST(NpyTest, ReadsWhatPythonTwoWrote) {
  for (const absl::string_view text : {"(2L, 1L)", "(2L,1,)", "(2l, 1L)"}) {
    const absl::StatusOr<ContainerIndex> index = ReadWith("(1,)", text, std::nullopt, 8);
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(index->tensors[0].desc, Desc("stem", DType::kF32, {2, 1}));
  }
  EXPECT_TRUE(
      Read(Npy(1, "{u'descr': u'<f4', U\"fortran_order\": False, u'shape': (1L,)}", "xxxx")).ok());
}

TEST(NpyTest, TakesEachNameThatNumpyHasForAType) {
  const struct {
    absl::string_view descr;
    DType dtype;
    bool big_endian = false;
  } kCases[] = {{"f4", DType::kF32},
                {"=f4", DType::kF32},
                {"float32", DType::kF32},
                {"single", DType::kF32},
                {"f", DType::kF32},
                {">f4", DType::kF32, true},
                {">f", DType::kF32, true},
                {"float", DType::kF64},
                {">f8", DType::kF64, true},
                {"half", DType::kF16},
                {">f2", DType::kF16, true},
                {"bfloat16", DType::kBf16},
                {"int", DType::kInt64},
                {">i8", DType::kInt64, true},
                {"<q", DType::kInt64},
                {"uint16", DType::kUint16},
                {">u2", DType::kUint16, true},
                {"i1", DType::kInt8},
                {">i1", DType::kInt8},
                {"bool", DType::kBool},
                {"?", DType::kBool},
                {"|?", DType::kBool},
                {"float8_e4m3fn", DType::kF8E4M3},
                {"float8_e5m2", DType::kF8E5M2}};
  for (const auto& c : kCases) {
    const absl::StatusOr<ContainerIndex> index =
        ReadWith("<f4", c.descr, std::nullopt, static_cast<size_t>(SizeOf(c.dtype)));
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(index->tensors[0].desc, Desc("stem", c.dtype, {1})) << c.descr;
    EXPECT_EQ(index->tensors[0].order.big_endian, c.big_endian) << c.descr;
    // Said again, it is the same.
    EXPECT_TRUE(ReadWith("<f4", c.descr, c.dtype, static_cast<size_t>(SizeOf(c.dtype))).ok())
        << c.descr;
  }
}

TEST(NpyTest, TakesFortranOrderForCOrderWhereTheyAreOne) {
  const auto order_of = [](absl::string_view shape, size_t value_bytes) {
    const std::string dict =
        absl::StrCat("{'descr': '|u1', 'fortran_order': True, 'shape': ", shape, "}");
    const absl::StatusOr<ContainerIndex> index = Read(Npy(1, dict, std::string(value_bytes, 'x')));
    EXPECT_TRUE(index.ok()) << index.status();
    return index.ok() && index->tensors[0].order.fortran;
  };
  EXPECT_FALSE(order_of("()", 1));
  EXPECT_FALSE(order_of("(3,)", 3));
  EXPECT_FALSE(order_of("(1, 3)", 3));
  EXPECT_FALSE(order_of("(3, 1, 1)", 3));
  EXPECT_FALSE(order_of("(2, 0, 2)", 0));
  EXPECT_TRUE(order_of("(2, 3)", 6));
  EXPECT_TRUE(order_of("(2, 1, 3)", 6));
}

TEST(NpyTest, ReadsEveryType) {
  for (const DType dtype : AllDTypes()) {
    const std::string header = FormatNpyHeader(dtype, Shape::Make({3}).value());
    EXPECT_EQ(header.size() % 64, 0u);
    EXPECT_EQ(header.back(), '\n');
    const std::string file = header + std::string(static_cast<size_t>(3 * SizeOf(dtype)), 'x');
    for (const bool asked : {false, true}) {
      const absl::StatusOr<ContainerIndex> index =
          Read(file, asked ? std::optional(dtype) : std::nullopt);
      const bool is_nameless =
          dtype == DType::kBf16 || dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
      if (is_nameless && !asked) {
        ExpectError(index.status(), Code::kInvalidArgument, {"give a dtype"});
        continue;
      }
      ASSERT_TRUE(index.ok()) << index.status();
      EXPECT_EQ(index->tensors[0].desc, Desc("stem", dtype, {3}));
    }
  }
}

TEST(NpyTest, TakesADtypeThatNpyCannotName) {
  for (const absl::string_view descr : {"<V2", "|V2", "<u2"}) {
    EXPECT_TRUE(ReadWith("<f4", descr, DType::kBf16, 2).ok()) << descr;
  }
  for (const absl::string_view descr : {"|V1", "<V1", "<f1", "|u1"}) {  // as ml_dtypes writes
    EXPECT_TRUE(ReadWith("<f4", descr, DType::kF8E5M2, 1).ok()) << descr;
  }
  ExpectError(ReadWith("<f4", "<f4", DType::kF16).status(), Code::kInvalidArgument,
              {"dtype f16", "\"<f4\""});
  ExpectError(ReadWith("<f4", "<f2", DType::kBf16, 2).status(), Code::kInvalidArgument, {"bf16"});
  ExpectError(ReadWith("<f4", "|V2", DType::kF32).status(), Code::kInvalidArgument, {"f32"});
}

TEST(NpyTest, RefusesArraysThatItDoesNotRead) {
  ExpectError(ReadWith("<f4", "|O").status(), Code::kUnimplemented, {"\"|O\"", "pickles"});
  ExpectError(ReadWith("<f4", "|O", DType::kF32).status(), Code::kUnimplemented, {"pickles"});
  ExpectError(ReadWith("<f4", "<O8").status(), Code::kUnimplemented, {"pickles"});
  ExpectError(ReadWith("'<f4'", "[('a', '<f4')]").status(), Code::kUnimplemented, {"structured"});
  const struct {
    absl::string_view descr, advice;
  } kCases[] = {{"<c8", "real and imaginary"},
                {">c16", "real and imaginary"},
                {"complex64", "real and imaginary"},
                {"<U4", "numbers"},
                {"|S7", "numbers"},
                {"<M8[ns]", "astype('int64')"},
                {"<m8[us]", "astype('int64')"},
                {"<f16", "float64"}};
  for (const auto& c : kCases) {
    ExpectError(ReadWith("<f4", c.descr).status(), Code::kUnimplemented,
                {std::string(c.descr), std::string(c.advice)});
  }
}

TEST(NpyTest, RefusesHeadersThatBreakTheFormat) {
  const struct {
    absl::string_view from, to, says;
  } kCases[] = {
      {"<f4", "", "unknown descr \"\"; known: <f8"},
      {"<f4", "4", "unknown descr"},
      {"<f4", "<float32", "unknown descr \"<float32\""},
      {"<f4", ">", "unknown descr"},
      {"<f4", ">V2", "give a dtype (bf16)"},
      {"<f4", "<f3", "unknown descr \"<f3\""},
      {"<f4", "<V8", "unknown descr"},
      {"<f4", "\\x3cf4", "without escapes"},
      {"'<f4'", "'<f4", "should have"},
      {"'<f4'", "4", "a string"},
      {"False", "false", "True or False"},
      {"False", "0", "True or False"},
      {"(1,)", "(1)", "should have ,"},
      {"(1,)", "1", "should have ("},
      {"(1,)", "[1]", "should have ("},
      {"(1,)", "(,)", "a dimension"},
      {"(1,)", "(-1,)", "a dimension"},
      {"(1,)", "(+1,)", "a dimension"},
      {"(1,)", "(01,)", "a dimension"},
      {"(1,)", "(1.0,)", "should have"},
      {"(1,)", "(1,,)", "a dimension"},
      {"(1,)", "(1LL,)", "should have"},
      {"(1,)", "(L,)", "a dimension"},
      {"(1,)", "((1,),)", "a dimension"},
      {"(1,)", "(9223372036854775808,)", "9223372036854775808"},
      {"(1,)", "(4294967296, 2147483648)", "2^63 - 1 elements"},
      {"(1,)", "(2305843009213693952,)", "2^63 - 1 bytes"},
      {"(1,)", "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)", "more than 16"},
      {"(1,)", "(1,), 'shape': (1,)", "twice"},
      {"'shape'", "'size'", "\"size\""},
      {"'shape': (1,), ", "", "needs descr"},
      {"{", "", "should have {"},
      {"}", "", "a string"},
      {"}", "} x", "nothing more"},
      {"'descr'", "'descr' '", "should have :"},
      {": '<f4', ", ": '<f4' ", ", or }"},
  };
  for (const auto& c : kCases) {
    ExpectError(ReadWith(c.from, c.to).status(), Code::kInvalidArgument, {std::string(c.says)});
  }
  const std::string deep(60'000, '(');
  ExpectError(ReadWith("(1,)", deep).status(), Code::kInvalidArgument, {"a dimension"});
  ExpectError(Read(Npy(2, std::string(65'537, ' '), "")).status(), Code::kInvalidArgument,
              {"65537", "limit of 65536"});
  ExpectError(Read(Npy(4, kDict, "xxxx")).status(), Code::kInvalidArgument, {"version 4.0"});
  ExpectError(Read("\x93NUMPZ\x01").status(), Code::kInvalidArgument, {"\\x93NUMPY"});
  ExpectError(Read("{}").status(), Code::kInvalidArgument, {"\\x93NUMPY"});
}

TEST(NpyTest, RefusesAFileOfAnotherSize) {
  const std::string file = Npy(1, kDict, "xxxx");
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_EQ(Read(file.substr(0, length)).status().code(), Code::kDataLoss) << length;
  }
  ExpectError(Read(file + "y").status(), Code::kInvalidArgument, {"1 bytes after"});
  ExpectError(ReadWith("(1,)", "(2305843009213693951,)").status(), Code::kDataLoss,
              {"4 bytes of values", "9223372036854775804"});
}

TEST(NpyTest, RefusesAShapeFromTheCaller) {
  OpenOptions options;
  options.shape = Shape();
  const std::string file = Npy(1, kDict, "xxxx");
  ExpectError(FindContainer("npy")
                  .value()
                  ->read_index(MemoryBytes(AsBytes(file)), "stem", options)
                  .status(),
              Code::kInvalidArgument, {"itself"});
}

absl::StatusOr<std::unique_ptr<TensorWriter>> Create(const std::string& path,
                                                     std::vector<TensorDesc> tensors,
                                                     const Metadata& announced = {}) {
  return FindContainer("npy").value()->create(path, {tensors.begin(), tensors.end()}, announced);
}

TEST(NpyWriterTest, WritesOneTensorToAFile) {
  const TempDir dir;
  absl::StatusOr<std::unique_ptr<TensorWriter>> writer =
      Create(dir / "w.npy", {Desc("any name", DType::kInt16, {2, 1})});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_TRUE((*writer)->WriteAt(0, 2, AsBytes("cd")).ok());
  ExpectError((*writer)->WriteAt(0, 3, AsBytes("cd")), Code::kOutOfRange, {"\"any name\""});
  ExpectError((*writer)->Finish({}), Code::kFailedPrecondition, {"2 of 4 bytes"});
  EXPECT_TRUE((*writer)->WriteAt(0, 0, AsBytes("ab")).ok());
  ExpectError((*writer)->Finish({{"k", "v"}}), Code::kInvalidArgument, {"metadata"});
  ASSERT_TRUE((*writer)->Finish({}).ok());
  // | magic, version, length 118 | dict | 47 spaces and a newline | values |
  const std::string dict = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 1), }";
  EXPECT_EQ(GetFile(dir / "w.npy"), absl::StrCat(absl::string_view("\x93NUMPY\1\0v\0", 10), dict,
                                                 std::string(117 - dict.size(), ' '), "\nabcd"));
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "w.npy", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors()[0].desc, Desc("w", DType::kInt16, {2, 1}));
  EXPECT_EQ(ValuesOf(*file, 0), "abcd");
}

TEST(NpyWriterTest, RefusesAFileForSeveralTensorsOrMetadata) {
  const TempDir dir;
  const TensorDesc a = Desc("a", DType::kInt8, {1}), b = Desc("b", DType::kInt8, {1});
  ExpectError(Create(dir / "w.npy", {a, b}).status(), Code::kInvalidArgument,
              {dir / "w.npy", "one tensor"});
  ExpectError(Create(dir / "w.npy", {a}, {{"k", "v"}}).status(), Code::kInvalidArgument,
              {"no metadata"});
  EXPECT_TRUE(dir.Names().empty());
}

TEST(NpyWriterTest, RoundTripsADirectory) {
  const TempDir dir;
  std::vector<TensorDesc> tensors;
  for (const absl::string_view name :
       {"w", "w.scale", "a/../b", ".hidden", "", "%", "x\ny", "a%2fb"}) {
    tensors.push_back(Desc(std::string(name), DType::kBf16, {2}));
  }
  tensors.push_back(Desc("empty", DType::kF8E4M3, {0, 3}));
  absl::StatusOr<std::unique_ptr<TensorWriter>> writer = Create(dir / "out", tensors, {{"k", "?"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t i = 0; i + 1 < tensors.size(); ++i) {
    const std::string value = absl::StrCat("val", i);
    EXPECT_TRUE((*writer)->WriteAt(i, 2, AsBytes(value).subspan(2)).ok());
    EXPECT_TRUE((*writer)->WriteAt(i, 0, AsBytes(value).first(2)).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
  const Metadata metadata = {{"k", "a value"}};
  const absl::Status status = (*writer)->Finish(metadata);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(dir.Names(), std::vector<std::string>{"out"});
  EXPECT_TRUE(std::filesystem::exists(dir / "out/w.scale.npy"));

  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "out", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->container().name, "npy");
  EXPECT_EQ(file->metadata(), metadata);
  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(file->tensors()[i].desc, tensors[i]);
    EXPECT_EQ(ValuesOf(*file, i), i + 1 < tensors.size() ? absl::StrCat("val", i) : "");
  }
}

TEST(NpyWriterTest, LeavesNoDirectoryBehindWhenAbandoned) {
  const TempDir dir;
  {
    absl::StatusOr<std::unique_ptr<TensorWriter>> writer =
        Create(dir / "out", {Desc("a", DType::kInt8, {1})});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ExpectError((*writer)->Finish({}), Code::kFailedPrecondition, {"\"a\"", "0 of 1"});
  }
  EXPECT_TRUE(dir.Names().empty());
  const TensorDesc a = Desc("a", DType::kInt8, {1});
  ExpectError(Create(dir / "out", {a, a}).status(), Code::kInvalidArgument, {"\"a\""});
  ExpectError(Create(dir / "out", {Desc(std::string(300, 'n'), DType::kInt8, {1})}).status(),
              Code::kInvalidArgument, {"name too long"});
  EXPECT_TRUE(dir.Names().empty());
}

TEST(NpyFileNameTest, IsSafeAndDiffersWhereNamesDo) {
  EXPECT_EQ(NpyFileName("layers.0.weight.scale"), "layers.0.weight.scale.npy");
  EXPECT_EQ(NpyFileName("../../etc/passwd"), "%2e.%2f..%2fetc%2fpasswd.npy");
  EXPECT_EQ(NpyFileName("a%2fb"), "a%252fb.npy");
  EXPECT_EQ(NpyFileName(""), "%.npy");
  EXPECT_EQ(NpyFileName(absl::string_view("\0\n", 2)), "%00%0a.npy");
}

}  // namespace
}  // namespace quantd
