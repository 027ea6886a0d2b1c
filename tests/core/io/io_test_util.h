#ifndef QUANTD_TESTS_CORE_IO_IO_TEST_UTIL_H_
#define QUANTD_TESTS_CORE_IO_IO_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/io/container.h"
#include "tests/support/temp_dir.h"

namespace quantd::io_test {

inline std::span<const std::byte> AsBytes(absl::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string AsText(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

inline void PutFile(const std::string& path, absl::string_view content) {
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<long>(content.size()));
}

inline std::string GetFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.is_open()) << path;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// Returns a safetensors file of this header and these values.
inline std::string Safetensors(absl::string_view json, absl::string_view values) {
  const uint64_t length = json.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file.append(json.data(), json.size()).append(values.data(), values.size());
}

// Returns a npy file of this version, dict and values.
inline std::string Npy(char major, absl::string_view dict, absl::string_view values) {
  const uint32_t length = static_cast<uint32_t>(dict.size());
  std::string file("\x93NUMPY");
  file.append({major, '\0'}).append(reinterpret_cast<const char*>(&length), major == 1 ? 2 : 4);
  return file.append(dict.data(), dict.size()).append(values.data(), values.size());
}

// Returns all values of tensor `i` of `file`, read in pieces of `piece_bytes`.
inline std::string ValuesOf(const TensorFile& file, size_t i, size_t piece_bytes = 1 << 20) {
  TensorReader reader = file.MakeReader(i);
  std::string values;
  std::string piece(piece_bytes, '\0');
  while (true) {
    const absl::StatusOr<size_t> got = reader.Read(std::as_writable_bytes(std::span(piece)));
    EXPECT_TRUE(got.ok()) << got.status();
    if (!got.ok() || *got == 0) return values;
    values.append(piece, 0, *got);
  }
}

inline TensorDesc Desc(std::string name, DType dtype, std::vector<int64_t> dims) {
  return {std::move(name), dtype, Shape::Make(std::move(dims)).value()};
}

// Expects `status` to have `code` and a message that contains each of `parts`.
inline void ExpectError(const absl::Status& status, absl::StatusCode code,
                        const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << "no <" << part << "> in: " << status;
  }
}

}  // namespace quantd::io_test

#endif  // QUANTD_TESTS_CORE_IO_IO_TEST_UTIL_H_
