#ifndef QUANTD_CLIENT_CLI_OUTPUT_ACCESS_H_
#define QUANTD_CLIENT_CLI_OUTPUT_ACCESS_H_

#include <string>

namespace quantd::cli {

// Has this process make files that no more people may read than `input`, where that is a file, or a
// folder with files; `output` is where they will be made. To be called before the output is made.
// Thread-compatible: it narrows the umask, which the whole process has.
void NarrowOutputs(const std::string& input, const std::string& output);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_OUTPUT_ACCESS_H_
