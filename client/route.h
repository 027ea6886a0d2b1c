#ifndef QUANTD_CLIENT_ROUTE_H_
#define QUANTD_CLIENT_ROUTE_H_

#include <grpcpp/channel.h>

#include <memory>

#include "client/connect.h"
#include "client/stream_region.h"

namespace quantd {

// How streams get to the server.
struct Route {
  std::shared_ptr<grpc::Channel> channel;
  RegionPool* regions = nullptr;  // null: no shared memory; outlives the calls
  Transport transport = Transport::kAuto;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_ROUTE_H_
