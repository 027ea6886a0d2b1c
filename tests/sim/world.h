#ifndef QUANTD_TESTS_SIM_WORLD_H_
#define QUANTD_TESTS_SIM_WORLD_H_

#include <cstdint>
#include <span>
#include <string>

// The server's calls without gRPC, threads and clock: everything that can happen next is an action,
// and a seed chooses which one does.
//
//   sim_tensor   what goes to the server for a tensor, and what has to come back
//   sim_client   a peer that is the client library: its machine, and the wire
//   sim_call     a call's peer, that or a script, and the port of the server's machine
//   world        servers, callers, time
namespace quantd::sim {

// What came of a seed.
struct Outcome {
  std::string fault;        // what went wrong; empty: nothing
  int64_t done = 0;         // tensors that came back whole
  int64_t failed = 0;       // that were told an error
  int64_t waited = 0;       // times somebody waited for memory
  int64_t broken = 0;       // calls that did not end with OK
  int64_t restarts = 0;     // servers that went, and others came
  int64_t made_again = 0;   // tensors that came back whole from the server after
  int64_t allocations = 0;  // reservations and buffers that were asked for
};

struct WorldOptions {
  uint64_t seed = 0;
  std::span<const uint8_t> choices = {};  // go before the seed's
  // Which reservation or buffer is refused, though there is memory; 0: none.
  int64_t refused = 0;
};

// A crowd: one caller's streams say nothing and fill the room in which calls wait, again and again,
// while another one's calls, which come again when they are refused, must be served within seconds.
Outcome RunCrowd(uint64_t seed);

// Runs a server with some callers, and something that holds memory meanwhile; some servers are
// drained, and what their callers have not got they ask the next one for.
Outcome Run(const WorldOptions& options);

}  // namespace quantd::sim

#endif  // QUANTD_TESTS_SIM_WORLD_H_
