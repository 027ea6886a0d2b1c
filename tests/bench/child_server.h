#ifndef QUANTD_TESTS_BENCH_CHILD_SERVER_H_
#define QUANTD_TESTS_BENCH_CHILD_SERVER_H_

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "client/client.h"

namespace quantd::bench {

// A folder that goes with everything in it.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "quantd_bench_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A program of ours that serves until it is told to end, one of its kind in `folder`. Its last
// argument is the file where it writes its address.
class ChildServer {
 public:
  ChildServer(const std::filesystem::path& folder, std::vector<std::string> command) {
    const std::string program = std::filesystem::path(command[0]).filename();
    const std::string port_file = folder / absl::StrCat(program, ".port");
    command.push_back(port_file);
    pid_ = fork();
    if (pid_ == 0) {
      const int log = open((folder / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      dup2(log, STDERR_FILENO);
      std::vector<char*> arguments;
      for (std::string& argument : command) arguments.push_back(argument.data());
      arguments.push_back(nullptr);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    while (!(std::ifstream(port_file) >> address_)) absl::SleepFor(absl::Microseconds(200));
  }
  ~ChildServer() {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  const std::string& address() const { return address_; }
  int64_t PeakBytes() const { return Status("VmHWM:") << 10; }
  int64_t ResidentBytes() const { return Status("VmRSS:") << 10; }
  // User and system time of the process so far.
  double CpuSeconds() const {
    std::ifstream stat(absl::StrCat("/proc/", pid_, "/stat"));
    std::string text((std::istreambuf_iterator<char>(stat)), std::istreambuf_iterator<char>());
    // proc(5): fields 14 and 15 are ticks; field 2, in parentheses, may hold spaces.
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string skipped;
    for (int field = 3; field < 14; ++field) fields >> skipped;
    double user = 0, system = 0;
    fields >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  int64_t NumThreads() const { return Status("Threads:"); }
  int64_t NumDescriptors() const {
    const std::filesystem::directory_iterator begin(absl::StrCat("/proc/", pid_, "/fd")), end;
    return std::distance(begin, end);
  }

 private:
  // Returns the number behind `name` in the kernel's account of the process.
  int64_t Status(absl::string_view name) const {
    std::ifstream status(absl::StrCat("/proc/", pid_, "/status"));
    int64_t number = 0;
    for (std::string word; status >> word;) {
      if (word == name) status >> number;
    }
    return number;
  }

  pid_t pid_;
  std::string address_;
};

// Returns a channel that has a connection of its own.
inline std::shared_ptr<grpc::Channel> ConnectionTo(const std::string& address) {
  grpc::ChannelArguments arguments = ClientChannelArguments();
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else channels share a connection
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_CHILD_SERVER_H_
