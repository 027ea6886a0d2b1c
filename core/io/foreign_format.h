#ifndef QUANTD_CORE_IO_FOREIGN_FORMAT_H_
#define QUANTD_CORE_IO_FOREIGN_FORMAT_H_

#include <cstddef>
#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

inline constexpr size_t kForeignHeadBytes = 512;

// Returns what a file is that people give and we do not read, and what to do instead: "a GGUF file,
// which ...; ...". Empty where it is none that is known. `head` is the file's first
// kForeignHeadBytes, or all of it; `by_content_only`: the name is not asked.
std::string DescribeForeignFormat(absl::string_view path, std::span<const std::byte> head,
                                  bool by_content_only);

// The same for a folder without .npy files, by what lies in it. Empty: nothing that is known.
std::string DescribeForeignFolder(const std::string& path, std::span<const std::string> names);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_FOREIGN_FORMAT_H_
