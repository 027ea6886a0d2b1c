#ifndef QUANTD_TESTS_BENCH_PLAIN_CLIENT_H_
#define QUANTD_TESTS_BENCH_PLAIN_CLIENT_H_

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/crc32c.h"
#include "core/base/digest.h"
#include "core/base/status_macros.h"
#include "core/io/shared_memory.h"
#include "core/scheme/scheme.h"
#include "tests/bench/plain_socket.h"

namespace quantd::bench {

// The other end of plain_server: one connection, on which one thread writes and one reads, and what
// comes back is checked as Client does. Not thread-safe.
class PlainClient {
 public:
  // Connects to "127.0.0.1:PORT" or "unix:PATH". kUnavailable: nothing listens there.
  static absl::StatusOr<std::unique_ptr<PlainClient>> Connect(const std::string& address_text) {
    const SocketAddress address(address_text);
    OwnedFd fd = address.NewSocket();
    Tune(fd.get());
    if (connect(fd.get(), address.get(), address.size_bytes()) != 0) {
      return SocketError(address_text);
    }
    return std::unique_ptr<PlainClient>(new PlainClient(std::move(fd)));
  }

  // Has `values`, those of `header`'s tensor, quantized. kDataLoss: what came back is wrong. After
  // an error the connection is of no more use.
  absl::Status Quantize(const TensorHeader& header, std::span<const std::byte> values) {
    absl::Status sent;
    std::thread writer([&] {
      sent = Send(header, values);
      if (!sent.ok()) shutdown(fd_.get(), SHUT_RDWR);  // else the reader waits for ever
    });
    const absl::Status received = Receive(header.checks != 0);
    if (!received.ok()) shutdown(fd_.get(), SHUT_RDWR);
    writer.join();
    return received.ok() ? sent : received;
  }

 private:
  explicit PlainClient(OwnedFd fd) : fd_(std::move(fd)) {}

  absl::Status Send(const TensorHeader& header, std::span<const std::byte> values) {
    QUANTD_RETURN_IF_ERROR(SendAll(fd_.get(), header, {}));
    while (!values.empty()) {
      const auto frame = values.first(std::min<size_t>(header.frame_bytes, values.size()));
      values = values.subspan(frame.size());
      const uint32_t crc32c = header.checks != 0 ? Crc32c(frame) : 0;
      QUANTD_RETURN_IF_ERROR(
          SendAll(fd_.get(), FrameHeader{0, static_cast<uint32_t>(frame.size()), crc32c}, frame));
    }
    return absl::OkStatus();
  }

  absl::Status Receive(bool checks) {
    std::vector<PlaneDigest> digests;
    while (true) {
      QUANTD_ASSIGN_OR_RETURN(const FrameHeader header, ReadHeader<FrameHeader>(fd_.get()));
      if (memory_.size() < header.size_bytes) memory_.resize(header.size_bytes);
      const auto data = std::span(memory_).first(header.size_bytes);
      QUANTD_RETURN_IF_ERROR(ReadAll(fd_.get(), data));
      if (header.plane == kEndPlane) {
        const std::string server(reinterpret_cast<const char*>(data.data()), data.size());
        const auto add_text = [](std::string* out, const PlaneDigest& digest) {
          absl::StrAppend(out, digest.Text());
        };
        const std::string ours = absl::StrJoin(digests, " ", add_text);
        if (ours == server) return absl::OkStatus();
        return absl::DataLossError(absl::StrCat("digests are ", ours, ", not ", server));
      }
      if (checks && Crc32c(data) != header.crc32c) {
        return absl::DataLossError(absl::StrCat("the CRC of plane ", header.plane, " is wrong"));
      }
      if (header.plane >= kMaxPlanes) return absl::DataLossError("there is no such plane");
      if (digests.size() <= header.plane) digests.resize(header.plane + 1);
      digests[header.plane].Update(data);
    }
  }

  const OwnedFd fd_;
  std::vector<std::byte> memory_;  // of the frame that has come last
};

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_PLAIN_CLIENT_H_
