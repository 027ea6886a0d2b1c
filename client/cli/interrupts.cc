#include "client/cli/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "client/cli/exit_code.h"

namespace quantd::cli {
namespace {

constexpr int kStop = SIGUSR1;  // ends the thread, not the process

sigset_t Signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, kStop}) sigaddset(&signals, signal);
  return signals;
}

// Libraries start threads before main (OpenBLAS does), which block nothing, so that the system may
// give them a signal, and its default would end the process: they send it on to this thread.
std::atomic<pthread_t> waiting_thread;

void SendOn(int signal) { pthread_kill(waiting_thread.load(), signal); }

// Sets what the signals do that are not ignored, as nohup has it.
void Handle(void (*handler)(int)) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {};
    sigaction(number, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(number, &action, nullptr);
  }
}

}  // namespace

Interrupts::Interrupts() {
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of a write, not the end of everything
  const sigset_t signals = Signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Main(); });
  waiting_thread = thread_.native_handle();
  Handle(SendOn);
}

Interrupts::~Interrupts() {
  Handle(SIG_DFL);
  pthread_kill(thread_.native_handle(), kStop);
  thread_.join();
}

void Interrupts::Main() {
  const sigset_t signals = Signals();
  int signal = 0;
  while (sigwait(&signals, &signal) != 0) {
  }
  if (signal == kStop) return;
  mutex_.Lock();  // for good: writes that come later wait for the end of the process
  delete writer_;
  fputs(isatty(STDERR_FILENO) == 1 ? "\r\033[Kquantctl: interrupted\n" : "quantctl: interrupted\n",
        stderr);
  _exit(128 + signal);
}

GuardedWriter::GuardedWriter(std::unique_ptr<TensorWriter> writer, Interrupts* interrupts)
    : interrupts_(interrupts), writer_(std::move(writer)) {
  absl::MutexLock lock(&interrupts_->mutex_);
  interrupts_->writer_ = writer_.get();
}

GuardedWriter::~GuardedWriter() {
  absl::MutexLock lock(&interrupts_->mutex_);
  interrupts_->writer_ = nullptr;
  writer_.reset();
}

absl::Status GuardedWriter::WriteAt(size_t tensor, int64_t offset_bytes,
                                    std::span<const std::byte> bytes) {
  absl::ReaderMutexLock lock(&interrupts_->mutex_);
  return FileError(writer_->WriteAt(tensor, offset_bytes, bytes));
}

absl::Status GuardedWriter::Finish(const Metadata& metadata) {
  absl::MutexLock lock(&interrupts_->mutex_);
  return FileError(writer_->Finish(metadata));
}

}  // namespace quantd::cli
