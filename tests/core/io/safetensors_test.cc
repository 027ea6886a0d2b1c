#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/status_macros.h"
#include "core/io/container.h"
#include "core/io/safetensors_header.h"
#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsBytes;
using io_test::Desc;
using io_test::ExpectError;
using io_test::GetFile;
using io_test::PutFile;
using io_test::Safetensors;
using io_test::ValuesOf;
using testing::TempDir;

using Code = absl::StatusCode;

absl::StatusOr<ContainerIndex> Read(const std::string& file, const OpenOptions& options = {}) {
  return FindContainer("safetensors")
      .value()
      ->read_index(MemoryBytes(AsBytes(file)), "stem", options);
}

absl::StatusOr<std::unique_ptr<TensorWriter>> Create(const std::string& path,
                                                     std::vector<TensorDesc> tensors,
                                                     const Metadata& announced = {}) {
  return FindContainer("safetensors")
      .value()
      ->create(path, {tensors.begin(), tensors.end()}, announced);
}

TEST(SafetensorsTest, ReadsARealModel) {
  const absl::StatusOr<TensorFile> file =
      TensorFile::Open(QUANTD_TEST_DATA "/silero_vad_16k.safetensors", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->container().name, "safetensors");
  ASSERT_EQ(file->tensors().size(), 15u);
  int64_t values_bytes = 0;
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const TensorEntry& entry = file->tensors()[i];
    EXPECT_EQ(entry.desc.dtype, DType::kF32) << entry.desc.name;
    EXPECT_EQ(static_cast<int64_t>(ValuesOf(*file, i).size()), 4 * entry.desc.shape.num_elems());
    values_bytes += entry.size_bytes;
  }
  EXPECT_EQ(values_bytes, 1'238'532);  // of 1,239,748 in the file
}

TEST(SafetensorsTest, ReadsEveryTypeAtAnyAlignment) {
  // One element each, in an order that leaves most of them unaligned.
  const struct {
    const char* name;
    DType dtype;
  } kTypes[] = {{"BOOL", DType::kBool},      {"F64", DType::kF64},        {"U8", DType::kUint8},
                {"I64", DType::kInt64},      {"F8_E4M3", DType::kF8E4M3}, {"U64", DType::kUint64},
                {"F8_E5M2", DType::kF8E5M2}, {"F32", DType::kF32},        {"I8", DType::kInt8},
                {"I32", DType::kInt32},      {"U32", DType::kUint32},     {"F16", DType::kF16},
                {"BF16", DType::kBf16},      {"I16", DType::kInt16},      {"U16", DType::kUint16}};
  std::string json = "{", values;
  for (const auto& type : kTypes) {
    const size_t begin = values.size();
    values.append(static_cast<size_t>(SizeOf(type.dtype)), type.name[0]);
    absl::StrAppend(&json, begin == 0 ? "" : ",", "\"t", type.name,
                    "\":{\"shape\":[1],\"dtype\":\"", type.name, "\",\"data_offsets\":[", begin,
                    ",", values.size(), "]}");
  }
  const TempDir dir;
  PutFile(dir / "all.safetensors", Safetensors(json + "}", values));
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "all.safetensors", {});
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), std::size(kTypes));
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    EXPECT_EQ(file->tensors()[i].desc,
              Desc(absl::StrCat("t", kTypes[i].name), kTypes[i].dtype, {1}));
    EXPECT_EQ(ValuesOf(*file, i),
              std::string(static_cast<size_t>(SizeOf(kTypes[i].dtype)), kTypes[i].name[0]));
  }
}

TEST(SafetensorsTest, ReadsMetadataEmptyTensorsAndTensorsOutOfOrder) {
  const absl::StatusOr<ContainerIndex> index = Read(
      Safetensors(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                  R"("e":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[1,1]},)"
                  R"("a\u00e9":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
                  R"("__metadata__":{"k\n":"v","":""}})"
                  "  ",
                  "xyz"));
  ASSERT_TRUE(index.ok()) << index.status();
  ASSERT_EQ(index->tensors.size(), 3u);
  EXPECT_EQ(index->tensors[0].desc, Desc("a\xc3\xa9", DType::kUint8, {}));
  EXPECT_EQ(index->tensors[1].desc, Desc("e", DType::kF32, {0, INT64_MAX}));
  EXPECT_EQ(index->tensors[2].desc, Desc("b", DType::kUint8, {2}));
  EXPECT_EQ(index->metadata, (Metadata{{"", ""}, {"k\n", "v"}}));
}

TEST(SafetensorsTest, RefusesAHeaderThatLiesAboutTheFile) {
  const auto with_length = [](uint64_t length, absl::string_view rest) {
    std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
    return absl::StrCat(file, rest);
  };
  ExpectError(Read("").status(), Code::kDataLoss, {"0 bytes"});
  ExpectError(Read("1234567").status(), Code::kDataLoss, {"7 bytes"});
  ExpectError(Read(with_length(3, "{}")).status(), Code::kDataLoss, {"header of 3 bytes"});
  ExpectError(Read(with_length(100'000'000, "{}")).status(), Code::kDataLoss, {"100000000"});
  ExpectError(Read(with_length(100'000'001, "{}")).status(), Code::kInvalidArgument,
              {"100000001", "limit of 100000000"});
  for (const uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    ExpectError(Read(with_length(length, "{}")).status(), Code::kInvalidArgument,
                {absl::StrCat(length)});
  }
  ExpectError(Read(with_length(0, "")).status(), Code::kInvalidArgument, {"begin with {"});
}

TEST(SafetensorsTest, RefusesValuesThatDoNotTileTheFile) {
  const auto two = [](absl::string_view a, absl::string_view b, size_t data_bytes) {
    return Read(
        Safetensors(absl::StrCat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", a,
                                 R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)", b, "}}"),
                    std::string(data_bytes, 'x')));
  };
  EXPECT_TRUE(two("[0,4]", "[4,8]", 8).ok());
  ExpectError(two("[0,4]", "[3,7]", 8).status(), Code::kInvalidArgument, {"\"b\"", "within"});
  ExpectError(two("[0,4]", "[0,4]", 4).status(), Code::kInvalidArgument, {"within"});
  ExpectError(two("[0,4]", "[5,9]", 9).status(), Code::kInvalidArgument, {"\"b\"", "hole"});
  ExpectError(two("[1,5]", "[5,9]", 9).status(), Code::kInvalidArgument, {"\"a\"", "hole"});
  ExpectError(two("[0,4]", "[4,8]", 7).status(), Code::kDataLoss, {"\"b\"", "end at 8", "has 7"});
  ExpectError(two("[0,4]", "[4,8]", 9).status(), Code::kInvalidArgument, {"1 bytes after"});
  ExpectError(two("[0,4]", "[4,9]", 9).status(), Code::kInvalidArgument, {"\"b\"", "[4, 9]"});
  ExpectError(two("[4,0]", "[4,8]", 8).status(), Code::kInvalidArgument, {"\"a\"", "[4, 0]"});
  ExpectError(two("[0,4]", "[9223372036854775803,9223372036854775807]", 8).status(),
              Code::kInvalidArgument, {"\"b\"", "hole"});
  ExpectError(two("[0,4]", "[9223372036854775808,9223372036854775812]", 8).status(),
              Code::kInvalidArgument, {"\"b\"", "9223372036854775808"});
}

// Headers that are refused, and what the message must say.
struct BadHeader {
  std::string json;
  std::string says;
};

TEST(SafetensorsTest, RefusesHeadersThatBreakTheFormat) {
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  const auto with = [&tensor](absl::string_view from, absl::string_view to) {
    return absl::StrCat(R"({"w":)", absl::StrReplaceAll(tensor, {{from, to}}), "}");
  };
  const BadHeader kCases[] = {
      {"", "begin with {"},
      {"[]", "begin with {"},
      {" {}", "begin with {"},
      {"{", "not JSON"},
      {"{}}", "not JSON"},
      {"{} x", "not JSON"},
      {std::string("{}\0{}", 5), "NUL, at its byte 2"},
      {"{\"w\xff\":1}", "UTF-8"},
      {"{\"\xc0\xaf\":1}", "UTF-8"},
      {R"({"\ud800":1})", "not JSON"},
      {R"({"w":5})", "\"w\""},
      {R"({"w":[1]})", "an array"},
      {R"({"w":null})", "null"},
      {R"({"__metadata__":{"k":null}})", "null"},
      {R"({"__metadata__":null,"__metadata__":{}})", "is there twice"},
      {R"({"w":{}})", "needs dtype"},
      {R"({"__metadata__":{"k":5}})", "\"k\""},
      {R"({"__metadata__":{"k":{}}})", "an object"},
      {R"({"__metadata__":{"k":"","k":""}})", "\"k\": is there twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", "__metadata__\": is there twice"},
      {absl::StrCat("{\"w\":", tensor, ",\"w\":", tensor, "}"), "\"w\": is there twice"},
      {with("\"U8\"", "\"f4\""), "\"w\": unknown dtype \"f4\"; known: BOOL, F4"},
      {with("\"U8\"", "\"\""), "unknown dtype \"\""},
      {with("\"U8\"", "\"F-4\""), "unknown dtype \"F-4\""},
      {with("\"U8\"", absl::StrCat("\"F", std::string(32, '4'), "\"")), "unknown dtype \"F44"},
      {with("\"U8\"", "\"F4\""), "[1] F4 are no whole bytes"},
      {with("\"U8\"", "\"C64\""), "do not hold the 8 bytes of [1] C64"},
      {with("\"U8\"", "\"u8\""), "unknown dtype"},
      {with("\"U8\"", "8"), "\"w\""},
      {with("[1]", "1"), "\"w\""},
      {with("[1]", "[-1]"), "-1"},
      {with("[1]", "[1.0]"), "1.0"},
      {with("[1]", "[1e999]"), "not JSON"},
      {with("[1]", "[true]"), "a boolean"},
      {with("[1]", "[\"1\"]"), "a string"},
      {with("[1]", "[[1]]"), "an array"},
      {with("[1]", "[9223372036854775808]"), "9223372036854775808"},
      {with("[1]", "[18446744073709551616]"), "18446744073709551616"},
      {with("[1]", "[4294967296,2147483648]"), "2^63 - 1 elements"},
      {with("[1]", "[9223372036854775807,2]"), "2^63 - 1 elements"},
      {with("[1]", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), "more than 16"},
      {with("[0,1]", "[0]"), "two numbers"},
      {with("[0,1]", "[0,1,1]"), "more than 2"},
      {with("\"shape\"", "\"stride\""), "\"w\": needs dtype, shape"},
      {with("\"U8\"", absl::StrCat("\"U8\",\"x\":", std::string(17, '['), std::string(17, ']'))),
       "too deep"},
      {with("\"shape\"", "\"dtype\""), "\"dtype\""},
      {with("\"dtype\":\"U8\"", "\"dtype\":\"U8\",\"dtype\":\"U8\""), "dtype twice"},
      {with("\"shape\":[1]", "\"shape\":[1],\"shape\":[1]"), "shape twice"},
  };
  for (const BadHeader& c : kCases) {
    ExpectError(Read(Safetensors(c.json, "x")).status(), Code::kInvalidArgument, {c.says});
  }
  // f64 of 2^60 elements: the elements can be counted, the bytes cannot.
  ExpectError(Read(Safetensors(R"({"w":{"dtype":"F64","shape":[1152921504606846976],)"
                               R"("data_offsets":[0,0]}})",
                               ""))
                  .status(),
              Code::kInvalidArgument, {"\"w\"", "2^63 - 1 bytes"});
}

TEST(SafetensorsTest, TakesMetadataThatIsNull) {
  const absl::StatusOr<ContainerIndex> index = Read(Safetensors(R"({"__metadata__":null})", ""));
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_TRUE(index->metadata.empty());
}

// Types that are none of ours and keys that the format has not are carried on.
TEST(SafetensorsTest, CarriesOnWhatItDoesNotKnow) {
  const std::string header =
      R"({"c":{"dtype":"C64","shape":[2],"data_offsets":[0,16],"x":[1,-2,1.50,null,{"y":"\"é"}],)"
      R"("z":true},"h":{"dtype":"F8_E8M0","shape":[3],"data_offsets":[16,19]},)"
      R"("w":{"dtype":"U8","shape":[1],"data_offsets":[19,20],"k":{}},)"
      R"("n":{"dtype":"F99_NEW","shape":[7,7],"data_offsets":[20,21]},)"
      R"("f":{"dtype":"F4","shape":[3,2],"data_offsets":[21,24]}})";
  const std::string values = "0123456789abcdefghijklmn";
  const absl::StatusOr<ContainerIndex> index = Read(Safetensors(header, values));
  ASSERT_TRUE(index.ok()) << index.status();
  ASSERT_EQ(index->tensors.size(), 5u);
  EXPECT_EQ(TypeName(index->tensors[0]), "C64");
  EXPECT_EQ(index->tensors[0].extra, R"("x":[1,-2,1.50,null,{"y":"\"é"}],"z":true)");
  EXPECT_EQ(TypeName(index->tensors[2]), "uint8");
  EXPECT_EQ(index->tensors[2].extra, R"("k":{})");
  EXPECT_EQ(index->tensors[3].foreign_bytes, 1);
  EXPECT_EQ(*FormatSafetensorsHeader(*Read(Safetensors("{}", ""))), "{}");

  // Written again, each is what it was, in the order of the format's types.
  const TempDir dir;
  std::vector<StoredTensor> tensors(index->tensors.begin(), index->tensors.end());
  auto writer = FindContainer("safetensors").value()->create(dir / "o.safetensors", tensors, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorEntry& entry = index->tensors[i];
    const size_t begin = static_cast<size_t>(entry.offset_bytes) - 8 - header.size();
    ASSERT_TRUE(
        (*writer)
            ->WriteAt(i, 0, AsBytes(values.substr(begin, static_cast<size_t>(entry.size_bytes))))
            .ok());
  }
  ASSERT_TRUE((*writer)->Finish({}).ok());
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "o.safetensors", {});
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::string> names;
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const TensorEntry& entry = file->tensors()[i];
    names.push_back(entry.desc.name);
    const auto original = std::find(tensors.begin(), tensors.end(), entry);
    ASSERT_NE(original, tensors.end()) << entry.desc.name;
    const TensorEntry& from = index->tensors[static_cast<size_t>(original - tensors.begin())];
    EXPECT_EQ(ValuesOf(*file, i),
              values.substr(static_cast<size_t>(from.offset_bytes) - 8 - header.size(),
                            static_cast<size_t>(from.size_bytes)));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"c", "h", "w", "f", "n"}));
}

TEST(SafetensorsTest, RefusesDeepJsonWithoutRecursion) {
  constexpr size_t kDepth = 2'000'000;
  const std::string arrays(kDepth, '[');
  std::string objects;
  for (size_t i = 0; i < kDepth; ++i) objects += "{\"a\":";
  for (const std::string& json :
       {absl::StrCat("{\"w\":", arrays), absl::StrCat("{\"w\":{\"shape\":", arrays),
        absl::StrCat("{\"w\":{\"x\":", arrays), absl::StrCat("{\"w\":{\"x\":", objects),
        absl::StrCat("{\"__metadata__\":{\"k\":", arrays), objects}) {
    EXPECT_EQ(Read(Safetensors(json, "")).status().code(), Code::kInvalidArgument);
  }
}

TEST(SafetensorsTest, ShowsNamesInMessagesEscapedAndCut) {
  const std::string json = absl::StrCat("{\"\\u001b[31m", std::string(1000, 'n'), "\":1}");
  const absl::Status status = Read(Safetensors(json, "")).status();
  ExpectError(status, Code::kInvalidArgument, {"\\x1b[31mnnn", "...\""});
  EXPECT_LT(status.message().size(), 300u);
}

TEST(SafetensorsTest, RefusesADtypeOrShapeFromTheCaller) {
  OpenOptions options;
  options.dtype = DType::kF16;
  ExpectError(Read(Safetensors("{}", ""), options).status(), Code::kInvalidArgument, {"itself"});
}

// Made with: safetensors.numpy.save({"b.scale": np.arange(2, dtype="f4"), "w": np.arange(3,
// dtype="i1"), "a": np.zeros((0, 4), "f2"), "h": np.ones((), "i8")}, metadata={"k": "v"}), 0.8.0.
const absl::string_view kReferenceHeader =
    R"({"__metadata__":{"k":"v"},"h":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
    R"("b.scale":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},)"
    R"("a":{"dtype":"F16","shape":[0,4],"data_offsets":[16,16]},)"
    R"("w":{"dtype":"I8","shape":[3],"data_offsets":[16,19]}}       )";
const absl::string_view kReferenceValues("\1\0\0\0\0\0\0\0\0\0\0\0\0\0\x80\x3f\0\1\2", 19);

TEST(SafetensorsWriterTest, WritesTheBytesOfTheReferenceInAnyOrder) {
  const TempDir dir;
  absl::StatusOr<std::unique_ptr<TensorWriter>> writer =
      Create(dir / "out.safetensors",
             {Desc("w", DType::kInt8, {3}), Desc("b.scale", DType::kF32, {2}),
              Desc("a", DType::kF16, {0, 4}), Desc("h", DType::kInt64, {})},
             {{"k", "?"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const auto write = [&writer](size_t tensor, int64_t offset, absl::string_view bytes) {
    const absl::Status status = (*writer)->WriteAt(tensor, offset, AsBytes(bytes));
    EXPECT_TRUE(status.ok()) << status;
  };
  write(1, 4, absl::string_view("\0\0\x80\x3f", 4));
  write(0, 2, "\2");
  write(3, 0, absl::string_view("\1\0\0\0\0\0\0\0", 8));
  write(0, 0, absl::string_view("\0\1", 2));
  write(1, 0, absl::string_view("\0\0\0\0", 4));
  EXPECT_FALSE(std::filesystem::exists(dir / "out.safetensors"));
  const absl::Status status = (*writer)->Finish({{"k", "v"}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(GetFile(dir / "out.safetensors"), Safetensors(kReferenceHeader, kReferenceValues));
  EXPECT_EQ(dir.Names().size(), 1u);
}

TEST(SafetensorsWriterTest, KeepsRoomForTheMetadataAnnounced) {
  const TempDir dir;
  for (const size_t length : {0u, 1u, 31u, 32u, 39u, 400u}) {
    absl::StatusOr<std::unique_ptr<TensorWriter>> writer =
        Create(dir / "out", {Desc("w", DType::kUint8, {1})}, {{"key", std::string(32, '?')}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->WriteAt(0, 0, AsBytes("x")).ok());
    const Metadata metadata = {{"key", std::string(length, 'v')}};
    const absl::Status status = (*writer)->Finish(metadata);
    if (length > 39) {  // 32 and the padding to a multiple of 8
      ExpectError(status, Code::kInvalidArgument, {dir / "out", "room"});
      continue;
    }
    if (!status.ok() && length > 32) continue;  // whether 7 more fit depends on the padding
    ASSERT_TRUE(status.ok()) << status;
    OpenOptions options;
    options.container = "safetensors";
    const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "out", options);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->metadata(), metadata);
    EXPECT_EQ(ValuesOf(*file, 0), "x");
    EXPECT_EQ(file->tensors()[0].offset_bytes % 8, 0);
  }
}

TEST(SafetensorsWriterTest, RoundTripsNamesThatJsonEscapes) {
  const TempDir dir;
  const std::string name("a\"\\\n\x01/\xc3\xa9\xf0\x9f\x98\x80\0z", 15);
  absl::StatusOr<std::unique_ptr<TensorWriter>> writer =
      Create(dir / "out.safetensors", {Desc(name, DType::kBf16, {0})});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Finish({}).ok());
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "out.safetensors", {});
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 1u);
  EXPECT_EQ(file->tensors()[0].desc, Desc(name, DType::kBf16, {0}));
}

TEST(SafetensorsWriterTest, RefusesWhatTheFormatCannotHold) {
  const TempDir dir;
  const TensorDesc w = Desc("w", DType::kUint8, {1});
  ExpectError(Create(dir / "o", {w, Desc("v", DType::kF32, {2}), w}).status(),
              Code::kInvalidArgument, {"two output tensors", "\"w\""});
  ExpectError(Create(dir / "o", {Desc("__metadata__", DType::kUint8, {1})}).status(),
              Code::kInvalidArgument, {"__metadata__"});
  ExpectError(Create(dir / "o", {Desc("\xff", DType::kUint8, {1})}).status(),
              Code::kInvalidArgument, {"\\xff", "UTF-8"});
  ExpectError(Create(dir / "o", {w}, {{"k", "\xff"}}).status(), Code::kInvalidArgument, {"UTF-8"});
  ExpectError(Create(dir / "o", {Desc("w", DType::kF64, {INT64_MAX})}).status(),
              Code::kInvalidArgument, {"2^63 - 1 bytes"});
  ExpectError(Create(dir / "o", {w, Desc("v", DType::kUint8, {INT64_MAX})}).status(),
              Code::kInvalidArgument, {"overflows"});
  ExpectError(Create(dir / "o", {w}, {{"k", std::string(100'000'000, 'v')}}).status(),
              Code::kInvalidArgument, {"limit"});
  ExpectError(Create(dir / "none/o", {w}).status(), Code::kNotFound, {dir / "none/o"});
  EXPECT_TRUE(dir.Names().empty());
}

TEST(SafetensorsWriterTest, RefusesWritesOutsideATensorAndAnUnfinishedFile) {
  const TempDir dir;
  {
    absl::StatusOr<std::unique_ptr<TensorWriter>> writer =
        Create(dir / "out", {Desc("w", DType::kUint8, {4}), Desc("v", DType::kUint8, {4})});
    ASSERT_TRUE(writer.ok()) << writer.status();
    TensorWriter& out = **writer;
    ExpectError(out.WriteAt(0, 3, AsBytes("ab")), Code::kOutOfRange, {"\"w\"", "4 bytes"});
    ExpectError(out.WriteAt(0, -1, AsBytes("ab")), Code::kOutOfRange, {"\"w\""});
    ExpectError(out.WriteAt(0, INT64_MAX, AsBytes("ab")), Code::kOutOfRange, {"\"w\""});
    ExpectError(out.WriteAt(2, 0, AsBytes("ab")), Code::kOutOfRange, {"tensor 2 of 2"});
    EXPECT_TRUE(out.WriteAt(0, 0, AsBytes("abcd")).ok());
    EXPECT_TRUE(out.WriteAt(0, 0, AsBytes("efgh")).ok());  // sent again
    EXPECT_TRUE(out.WriteAt(1, 0, AsBytes("abc")).ok());
    ExpectError(out.Finish({}), Code::kFailedPrecondition, {"\"v\"", "3 of 4 bytes"});
  }
  EXPECT_TRUE(dir.Names().empty());
}

}  // namespace
}  // namespace quantd
