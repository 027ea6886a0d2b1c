#include "core/io/npy_dir.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/io/container.h"
#include "core/io/npy.h"
#include "core/io/safetensors_header.h"
#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsBytes;
using io_test::Desc;
using io_test::ExpectError;
using io_test::Npy;
using io_test::PutFile;
using io_test::ValuesOf;
using testing::TempDir;

using Code = absl::StatusCode;

std::string Array(absl::string_view descr, absl::string_view shape, absl::string_view values) {
  return Npy(1,
             absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': ", shape, "}"),
             values);
}

TEST(NpyDirTest, ReadsAFolderThatSomebodyElseWrote) {
  const TempDir dir;
  PutFile(dir / "b.npy", Array("<f4", "(1,)", "wxyz"));
  PutFile(dir / "a.1.npy", Array("|i1", "(2,)", "ab"));
  PutFile(dir / "a%2f.npy", Array("|u1", "()", "c"));
  PutFile(dir / "notes.txt", "no array");
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir.path(), {});
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 3u);
  EXPECT_EQ(file->tensors()[0].desc, Desc("a%2f", DType::kUint8, {}));
  EXPECT_EQ(file->tensors()[1].desc, Desc("a.1", DType::kInt8, {2}));
  EXPECT_EQ(file->tensors()[2].desc, Desc("b", DType::kF32, {1}));
  EXPECT_EQ(ValuesOf(*file, 2), "wxyz");
  EXPECT_TRUE(file->Reads(*FileIdOf(dir / "b.npy")));
  EXPECT_FALSE(file->Reads(*FileIdOf(dir / "notes.txt")));
}

TEST(NpyDirTest, TakesADtypeForArraysThatNpyHasNoNameFor) {
  const TempDir dir;
  PutFile(dir / "a.npy", Array("<f4", "(1,)", "wxyz"));
  PutFile(dir / "b.npy", Array("|V2", "(1,)", "ab"));
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kInvalidArgument,
              {dir / "b.npy", "give a dtype"});
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir.path(), {.dtype = DType::kBf16});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors()[0].desc.dtype, DType::kF32);
  EXPECT_EQ(file->tensors()[1].desc.dtype, DType::kBf16);
}

TEST(NpyDirTest, NamesTheFileAtFault) {
  const TempDir dir;
  PutFile(dir / "a.npy", Array("<f4", "(1,)", "wxyz"));
  PutFile(dir / "b.npy", Array("|O", "(1,)", "wxyz"));
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kUnimplemented,
              {dir / "b.npy", "pickles"});
}

TEST(NpyDirTest, SaysWhatAFolderIsThatHasNoArrays) {
  const TempDir dir;
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kNotFound,
              {"without .npy files", dir / kNpyIndexFile});
  PutFile(dir / "config.json", "{}");
  PutFile(dir / "model-00001-of-00002.safetensors", "");
  PutFile(dir / "model-00002-of-00002.safetensors", "");
  PutFile(dir / "model.safetensors.index.json", "{}");
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kUnimplemented,
              {dir.path(), "2 .safetensors shards", "for f in"});
}

// Files beyond the limit of open ones, and of mappings where these would be used.
TEST(NpyDirTest, HoldsNoFileOpen) {
  const TempDir dir;
  constexpr int kFiles = 100;
  for (int i = 0; i < kFiles; ++i) {
    PutFile(dir / absl::StrCat(i, ".npy"), Array("|u1", "(1,)", "x"));
  }
  rlimit old_limit, low;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old_limit), 0);
  low = old_limit;
  low.rlim_cur = 40;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir.path(), {});
  std::string values;
  for (size_t i = 0; file.ok() && i < file->tensors().size(); ++i) values += ValuesOf(*file, i);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old_limit), 0);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(values, std::string(kFiles, 'x'));
  EXPECT_TRUE(file->CheckUnchanged().ok());
}

// A list of this length is refused in safetensors; a folder has no such limit.
TEST(NpyDirTest, ReadsAndWritesAListThatASafetensorsFileHasNoRoomFor) {
  const TempDir dir;
  PutFile(dir / kNpyIndexFile, "{}" + std::string(kMaxSafetensorsHeaderBytes, ' '));
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir.path(), {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->tensors().empty());

  ContainerIndex index;
  index.metadata = {{"k", std::string(100, 'v')}};
  const std::string header = FormatSafetensorsHeader(index).value();
  const auto size_bytes = static_cast<int64_t>(header.size());
  EXPECT_EQ(*FormatSafetensorsHeader(index, size_bytes), header);
  ExpectError(FormatSafetensorsHeader(index, size_bytes - 1).status(), Code::kInvalidArgument,
              {"limit", "--format npy"});
  EXPECT_GT(kMaxNpyIndexBytes, 10 * kMaxSafetensorsHeaderBytes);
}

TEST(NpyDirTest, CarriesOnTypesThatAreNoneOfOurs) {
  const TempDir dir;
  StoredTensor tensor(Desc("z", DType::kBool, {3}));
  tensor.foreign_type = "F8_E8M0";
  tensor.foreign_bytes = 3;
  tensor.extra = R"("k":1)";
  const Container& npy = *FindContainer("npy").value();
  ExpectError(npy.create(dir / "z.npy", {tensor}, {}).status(), Code::kInvalidArgument,
              {dir / "z.npy", "F8_E8M0"});
  auto writer = npy.create(dir / "out", {tensor}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->WriteAt(0, 0, AsBytes("abc")).ok());
  ASSERT_TRUE((*writer)->Finish({}).ok());
  const absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "out", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(static_cast<const StoredTensor&>(file->tensors()[0]), tensor);
  EXPECT_EQ(ValuesOf(*file, 0), "abc");
}

}  // namespace
}  // namespace quantd
