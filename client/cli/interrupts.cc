#include "client/cli/interrupts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/exit_code.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"
#include "core/io/left_behind.h"

namespace quantd::cli {
namespace {

// Where the signal handler says which signal came; a handler can reach nothing but a global.
// Waiting for blocked signals will not do: libraries start threads before main, and one of those
// that does not block them would end the process.
std::atomic<int> handler_fd = -1;
static_assert(std::atomic<int>::is_always_lock_free);

void HandleSignal(int signal) {
  const int saved_errno = errno;
  const char number = static_cast<char>(signal);
  // Where this does not work there is nothing left to do.
  [[maybe_unused]] const ssize_t written = write(handler_fd.load(), &number, 1);
  errno = saved_errno;
}

// Sets the handler of those signals that are not ignored, as nohup does with SIGHUP.
void SetHandlers(void (*handler)(int)) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {};
    if (sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, nullptr);
  }
}

}  // namespace

Interrupts::Interrupts() {
  // A closed pipe, and a file beyond the limit of sizes, are errors of a write, not the end of
  // everything.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  if (pipe2(pipe_fds_, O_CLOEXEC) != 0) return;  // signals then end the process as they do
  handler_fd = pipe_fds_[1];
  thread_ = std::thread([this] { Main(); });
  SetHandlers(&HandleSignal);
}

Interrupts::~Interrupts() {
  if (!thread_.joinable()) return;
  SetHandlers(SIG_DFL);
  close(pipe_fds_[1]);
  thread_.join();
  close(pipe_fds_[0]);
}

void Interrupts::Main() {
  char signal = 0;
  ssize_t got;
  do {
    got = read(pipe_fds_[0], &signal, 1);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return;
  mutex_.Lock();  // for good: writes that come later wait for the end of the process
  delete writer_;
  delete spool_;
  fputs(isatty(STDERR_FILENO) == 1 ? "\r\033[Kquantctl: interrupted\n" : "quantctl: interrupted\n",
        stderr);
  _exit(128 + signal);
}

void SayWhatIsLeftBehind(const std::string& path) {
  for (const std::string& left : LeftBehind(path)) {
    absl::FPrintF(stderr, "quantctl: note: %s was left by a run that was killed; remove it\n",
                  Printable(left));
  }
}

absl::StatusOr<std::unique_ptr<GuardedWriter>> GuardedWriter::Create(
    const Container& container, const std::string& path, std::vector<StoredTensor> tensors,
    const Metadata& announced, Interrupts* interrupts) {
  std::unique_ptr<GuardedWriter> guarded(new GuardedWriter(interrupts));
  std::string place = path;
  if (IsPipeOutput(path)) {
    QUANTD_ASSIGN_OR_RETURN(guarded->spool_, Spool::Create(path));
    place = guarded->spool_->path();
  } else {
    SayWhatIsLeftBehind(path);
  }
  absl::Status status;
  {
    MutexLock lock(&interrupts->mutex_);
    auto writer = container.create(place, std::move(tensors), announced);
    status = writer.status();
    if (writer.ok()) guarded->writer_ = *std::move(writer);
    interrupts->writer_ = guarded->writer_.get();
    interrupts->spool_ = guarded->spool_.get();
  }
  if (!status.ok()) return Named(place, FileError(status));
  return guarded;
}

GuardedWriter::~GuardedWriter() {
  MutexLock lock(&interrupts_->mutex_);
  interrupts_->writer_ = nullptr;
  interrupts_->spool_ = nullptr;
  writer_.reset();
  spool_.reset();
}

absl::Status GuardedWriter::WriteAt(size_t tensor, int64_t offset_bytes,
                                    std::span<const std::byte> bytes) {
  ReaderMutexLock lock(&interrupts_->mutex_);
  return FileError(writer_->WriteAt(tensor, offset_bytes, bytes));
}

absl::Status GuardedWriter::Finish(const Metadata& metadata) {
  {
    MutexLock lock(&interrupts_->mutex_);
    QUANTD_RETURN_IF_ERROR(FileError(writer_->Finish(metadata)));
    if (spool_ == nullptr) return absl::OkStatus();
    QUANTD_RETURN_IF_ERROR(spool_->Take());
    interrupts_->spool_ = nullptr;  // nothing is left to remove, and Send goes on with it
  }
  // Under no lock: a reader that does not read must not keep a signal waiting.
  return spool_->Send();
}

}  // namespace quantd::cli
