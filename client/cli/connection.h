#ifndef QUANTD_CLIENT_CLI_CONNECTION_H_
#define QUANTD_CLIENT_CLI_CONNECTION_H_

#include <stdio.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/credentials.h"
#include "client/cli/table.h"
#include "client/client.h"
#include "client/in_process.h"

namespace quantd::cli {

class Interrupts;
class Progress;

// What every command may be told.
struct Globals {
  std::string server;       // empty: the service runs in this process
  Credentials credentials;  // for the server
  std::string transport = "auto";
  bool json = false;
  bool quiet = false;
  double timeout_s = 0;  // 0: none
  InProcessOptions in_process;
  Interrupts* interrupts = nullptr;
  bool data_to_stdout = false;  // -o -: what is said of it goes to stderr

  // Returns where results are printed, and the columns that a table may have there.
  FILE* out() const { return data_to_stdout ? stderr : stdout; }
  size_t columns() const { return ColumnsOfOutput(fileno(out())); }
};

// A client of the server that was named, or of a service that runs in this process for as long as
// this object lives. Thread-compatible.
class Connection {
 public:
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const Globals& globals);

  const Client& client() const { return *client_; }
  // Returns options with the deadline that starts now.
  CallOptions call_options() const;
  // Likewise, of calls whose bytes `progress`, which outlives them, counts.
  CallOptions call_options(Progress& progress) const;
  // Returns e.g. "127.0.0.1:7001", "this process".
  const std::string& where() const { return where_; }
  // Returns what carries tensors, as NameOf(Transport).
  std::string transport() const { return std::string(NameOf(client_->transport())); }
  // Returns the error of a call about `name`, with what is at fault named: the server where there
  // is none, or else the tensor.
  absl::Status ErrorOf(absl::string_view name, const absl::Status& status) const;

 private:
  Connection() = default;

  std::unique_ptr<InProcessService> service_;
  std::unique_ptr<Client> client_;  // goes before the service
  std::string where_;
  double timeout_s_ = 0;
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_CONNECTION_H_
