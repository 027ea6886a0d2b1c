#ifndef QUANTD_TESTS_SUPPORT_GOLDEN_FILE_H_
#define QUANTD_TESTS_SUPPORT_GOLDEN_FILE_H_

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace quantd {

// One case of a golden file (tests/golden/make_golden.py has the format).
struct GoldenCase {
  std::string name;
  std::string spec;
  TensorDesc tensor;              // f32 where the case has no input
  std::vector<std::byte> input;   // empty: decode only
  std::vector<float> importance;  // weights of the columns; empty: none
  std::map<std::string, std::vector<std::byte>> planes;  // by name
  std::vector<std::byte> values;  // what decoding to f32 gives; empty: not known
  std::string values_sha256;      // instead of `values`
};

struct GoldenFile {
  std::string command;  // that made it
  std::string source;   // whose bytes these are
  std::vector<GoldenCase> cases;
};

// Reads a golden file; an error names the file and what is wrong with it.
absl::StatusOr<GoldenFile> ReadGoldenFile(const std::string& path);

}  // namespace quantd

#endif  // QUANTD_TESTS_SUPPORT_GOLDEN_FILE_H_
