// Formats that hold models and are not read. Content counts before the name: a file that was
// renamed, the pointer that git leaves of a large file, and the web page that came instead of a
// download say what they are in their first bytes. A safetensors file begins with the length of its
// header, which may be any bytes, pickle's 80 02 (640) as well; so what goes on as such a file does
// is none of these.
//
// Tested by tests/core/io/foreign_format_test.cc.
#include "core/io/foreign_format.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr absl::string_view kGguf =
    "a GGUF file, which is not read; quantize the .safetensors files that it was made from";
constexpr absl::string_view kOnnx =
    "an ONNX model, which is not read; save its weights as .safetensors: "
    "safetensors.numpy.save_file({t.name: onnx.numpy_helper.to_array(t) for t in "
    "onnx.load(FILE).graph.initializer}, OUT)";
constexpr absl::string_view kTorch =
    "a PyTorch checkpoint, which is not read as it is a pickle, and these may run code; save its "
    "tensors as .safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
    "OUT)";
constexpr absl::string_view kNpz =
    "an .npz archive, which is not read; unpack it (unzip FILE -d FOLDER) and give the folder";
constexpr absl::string_view kZip = "a zip archive, which is not read; unpack it first";
constexpr absl::string_view kHdf5 =
    "an HDF5 file, which is not read; save its arrays as .npy or .safetensors";
constexpr absl::string_view kIndex =
    "the index of a model in shards, which holds no tensors; quantize each shard (the .safetensors "
    "files beside it) by itself";
constexpr absl::string_view kJson = "JSON, which holds no tensors; give the file that does";

// Content, from byte 0 on.
struct Magic {
  absl::string_view bytes, what;
};
constexpr Magic kMagics[] = {
    {"GGUF", kGguf},
    {"\x89HDF\r\n\x1a\n", kHdf5},
    {"version https://git-lfs.github.com/",
     "the pointer that Git LFS leaves in place of a large file; fetch the file: git lfs pull"},
    {"<!DOCTYPE html", "a web page, not what was to be downloaded; download it again"},
    {"<!doctype html", "a web page, not what was to be downloaded; download it again"},
    {"<html", "a web page, not what was to be downloaded; download it again"},
    {"\x1f\x8b", "compressed by gzip; unpack it first (gunzip)"},
    {"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first (unzstd)"},
    {"\xfd"
     "7zXZ",
     "compressed by xz; unpack it first (unxz)"},
    {"\x80\x02", kTorch},  // pickles, by protocol; torch.save's of before 1.6
    {"\x80\x03", kTorch},
    {"\x80\x04", kTorch},
    {"\x80\x05", kTorch},
};

// Names, by extension.
constexpr Magic kExtensions[] = {
    {".gguf", kGguf}, {".onnx", kOnnx}, {".pt", kTorch},  {".pth", kTorch}, {".ckpt", kTorch},
    {".npz", kNpz},   {".h5", kHdf5},   {".hdf5", kHdf5}, {".json", kJson},
};

// A zip archive's first entry: its name begins at byte 30.
std::string DescribeZip(absl::string_view path, absl::string_view head) {
  const size_t name_bytes = head.size() < 30 ? 0
                                             : static_cast<unsigned char>(head[26]) +
                                                   256u * static_cast<unsigned char>(head[27]);
  const absl::string_view name = head.size() < 30 ? "" : head.substr(30, name_bytes);
  if (absl::EndsWith(name, ".npy") || absl::EndsWithIgnoreCase(path, ".npz")) {
    return std::string(kNpz);
  }
  const bool is_torch =
      absl::StrContains(name, "data.pkl") || absl::StrContains(name, "/version") ||
      absl::StrContains(name, "/byteorder") || absl::StrContains(name, "/.format_version");
  for (const absl::string_view extension : {".pt", ".pth", ".bin", ".ckpt"}) {
    if (is_torch || absl::EndsWithIgnoreCase(path, extension)) return std::string(kTorch);
  }
  return std::string(kZip);
}

// True for the first bytes of an onnx.ModelProto: | 08 ir_version | 12 length, producer_name |.
bool LooksLikeOnnx(absl::string_view head) {
  return head.size() > 8 && head[0] == 8 && head[1] > 0 && head[1] < 32 && head[2] == 0x12 &&
         head[3] > 0 && head[3] < 64 && absl::ascii_isalpha(static_cast<unsigned char>(head[4]));
}

// True for | u64 length, below 2^32 | { |.
bool BeginsLikeSafetensors(absl::string_view head) {
  return head.size() > 8 && head.substr(4, 4) == absl::string_view("\0\0\0\0", 4) && head[8] == '{';
}

}  // namespace

std::string DescribeForeignFormat(absl::string_view path, std::span<const std::byte> bytes,
                                  bool by_content_only) {
  const absl::string_view head(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (BeginsLikeSafetensors(head)) return "";
  if (absl::StartsWith(head, "PK\x03\x04")) return DescribeZip(path, head);
  for (const Magic& magic : kMagics) {
    if (absl::StartsWith(head, magic.bytes)) return std::string(magic.what);
  }
  if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(head), "{") &&
      (absl::StrContains(head, "\"weight_map\"") ||
       absl::EndsWith(path, ".safetensors.index.json"))) {
    return std::string(kIndex);
  }
  if (LooksLikeOnnx(head)) return std::string(kOnnx);
  if (by_content_only) return "";
  for (const Magic& extension : kExtensions) {
    if (absl::EndsWithIgnoreCase(path, extension.bytes)) return std::string(extension.what);
  }
  return "";
}

std::string DescribeForeignFolder(const std::string& path, std::span<const std::string> names) {
  const auto count = [names](absl::string_view extension) {
    return std::count_if(names.begin(), names.end(), [extension](const std::string& name) {
      return absl::EndsWithIgnoreCase(name, extension);
    });
  };
  if (const auto shards = count(".safetensors"); shards > 0) {
    return absl::StrCat(
        "a model folder with ", shards, shards == 1 ? " .safetensors file" : " .safetensors shards",
        ", and a folder is read only of .npy files; quantize each file by itself: "
        "for f in ",
        path,
        "/*.safetensors; do quantctl quantize \"$f\" -o \"OUT/${f##*/}\" --to SPEC; "
        "done");
  }
  for (const Magic& extension : kExtensions) {
    if (extension.what != kJson && count(extension.bytes) > 0) {
      return absl::StrCat("a folder with ", extension.bytes, " files: ", extension.what);
    }
  }
  if (count(".bin") > 0) return absl::StrCat("a folder with .bin files: ", kTorch);
  return "";
}

}  // namespace quantd
