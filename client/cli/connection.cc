#include "client/cli/connection.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"
#include "client/cli/progress.h"
#include "core/base/status_macros.h"

namespace quantd::cli {

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const Globals& globals) {
  std::unique_ptr<Connection> connection(new Connection);
  connection->timeout_s_ = globals.timeout_s;
  QUANTD_ASSIGN_OR_RETURN(const Transport transport, ParseTransport(globals.transport));
  if (globals.server.empty()) {
    if (transport != Transport::kAuto && transport != Transport::kInProcess) {
      return absl::InvalidArgumentError(
          absl::StrCat("transport ", NameOf(transport), " needs a --server"));
    }
    QUANTD_ASSIGN_OR_RETURN(connection->service_, InProcessService::Start(globals.in_process));
    connection->client_ = std::make_unique<Client>(connection->service_->MakeClient());
    connection->where_ = "this process";
  } else {
    QUANTD_ASSIGN_OR_RETURN(ConnectOptions options,
                            LoadCredentials(globals.server, globals.credentials));
    options.transport = transport;
    QUANTD_ASSIGN_OR_RETURN(Client client, Client::Connect(options));
    connection->client_ = std::make_unique<Client>(std::move(client));
    connection->where_ = globals.server;
  }
  return connection;
}

CallOptions Connection::call_options() const {
  CallOptions options;
  if (timeout_s_ > 0) options.deadline = absl::Now() + absl::Seconds(timeout_s_);
  return options;
}

CallOptions Connection::call_options(Progress& progress) const {
  CallOptions options = call_options();
  options.on_sent = [&progress](int64_t bytes) { progress.Add(bytes); };
  return options;
}

absl::Status Connection::ErrorOf(absl::string_view name, const absl::Status& status) const {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnauthenticated:
      return Named(where_, status);
    case absl::StatusCode::kNotFound:  // a scheme or a calibrator, whatever the tensor
      return status;
    default:
      return Named(name, status);
  }
}

}  // namespace quantd::cli
