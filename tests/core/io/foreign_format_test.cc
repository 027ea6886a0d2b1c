#include "core/io/foreign_format.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/io/container.h"
#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsBytes;
using io_test::ExpectError;
using io_test::PutFile;
using testing::TempDir;

// A zip archive's first entry.
std::string Zip(absl::string_view name) {
  std::string out("PK\x03\x04", 4);
  out.append(22, '\0');
  out.push_back(static_cast<char>(name.size()));
  out.append(3, '\0');
  return absl::StrCat(out, name, "...");
}

TEST(ForeignFormatTest, IsToldByContentWhateverTheName) {
  const struct {
    std::string content, name, says;
  } kCases[] = {
      {std::string("GGUF\3\0\0\0", 8), "m.safetensors", "GGUF"},
      {std::string("\x08\x08\x12\x07pytorch", 11), "m", "onnx.numpy_helper"},
      {Zip("archive/data.pkl"), "m.safetensors", "torch.load"},
      {Zip("anything"), "pytorch_model.bin", "torch.load"},
      {Zip("w.npy"), "m", "unzip"},
      {Zip("anything"), "m.npz", "unzip"},
      {Zip("readme.txt"), "m", "zip archive"},
      {"\x80\x02}q", "m.bin", "torch.load"},
      {"\x89HDF\r\n\x1a\n", "m", "HDF5"},
      {R"({"metadata": {}, "weight_map": {"w": "f"}})", "m", "shard"},
      {R"( {"metadata": {}})", "model.safetensors.index.json", "shard"},
      {"version https://git-lfs.github.com/spec/v1\noid", "m.safetensors", "git lfs pull"},
      {"<!DOCTYPE html><html>", "m.npy", "web page"},
      {"\x1f\x8b\x08", "m.npy", "gunzip"},
  };
  const TempDir dir;
  for (const auto& c : kCases) {
    PutFile(dir / c.name, c.content);
    ExpectError(TensorFile::Open(dir / c.name, {}).status(), absl::StatusCode::kUnimplemented,
                {absl::StrCat(dir / c.name, ": is "), c.says});
  }
}

// Whose length may have any first bytes.
TEST(ForeignFormatTest, TakesNoSafetensorsFileForAnother) {
  const TempDir dir;
  for (const size_t header_bytes :
       {size_t{0x0280}, size_t{0x0380}, size_t{0x8B1F}, size_t{0x0108}}) {
    const std::string header = "{}" + std::string(header_bytes - 2, ' ');
    PutFile(dir / "m", io_test::Safetensors(header, ""));
    const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "m", {});
    EXPECT_TRUE(file.ok()) << file.status();
  }
}

TEST(ForeignFormatTest, IsToldByTheNameWhereTheContentTellsNothing) {
  for (const char* name :
       {"a.gguf", "a.onnx", "a.pt", "a.PTH", "a.ckpt", "a.npz", "a.h5", "a.json"}) {
    EXPECT_NE(DescribeForeignFormat(name, AsBytes("1234"), false), "") << name;
    EXPECT_EQ(DescribeForeignFormat(name, AsBytes("1234"), true), "") << name;
  }
  EXPECT_EQ(DescribeForeignFormat("a.safetensors", {}, false), "");
  EXPECT_EQ(DescribeForeignFormat("a", AsBytes("\x93NUMPY"), false), "");
}

// Bytes of which the caller says what they are may begin like anything.
TEST(ForeignFormatTest, IsNotAskedOfRawBytes) {
  const TempDir dir;
  OpenOptions raw;
  raw.dtype = DType::kUint8;
  raw.shape = Shape::Make({4}).value();
  for (const char* name : {"a", "a.bin", "a.raw", "a.pt"}) {
    PutFile(dir / name, "GGUF");
    const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / name, raw);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->container().name, "raw");
  }
}

TEST(ForeignFormatTest, NamesWhatAFolderHolds) {
  const auto describe = [](std::vector<std::string> names) {
    return DescribeForeignFolder("/m", names);
  };
  EXPECT_NE(describe({"config.json", "model.safetensors"}).find("1 .safetensors file"),
            std::string::npos);
  EXPECT_NE(describe({"a.gguf"}).find("GGUF"), std::string::npos);
  EXPECT_NE(describe({"pytorch_model.bin"}).find("torch.load"), std::string::npos);
  EXPECT_EQ(describe({"config.json"}), "");
  EXPECT_EQ(describe({}), "");
}

}  // namespace
}  // namespace quantd
