// Every method is one of raw messages in both directions, also where the proto has a single
// message: the wire knows no difference, but gRPC would read that message before anybody is asked
// (core/adr/0011-every-method-is-a-raw-stream.md).
//
// Entries: MakeQuantizeService, MakeHealthService. Tested by tests/server/server_test.cc.
#include "server/calls/quantize_service.h"

#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/rpc_service_method.h>

#include <deque>
#include <memory>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/calls/methods.h"
#include "server/calls/reactors.h"

namespace quantd {
namespace {

struct Method {
  absl::string_view name;
  CallKind kind;
  MakeHandler make;
};
constexpr Method kMethods[] = {
    {"Quantize", CallKind::kUnary, &MakeQuantize},
    {"Dequantize", CallKind::kUnary, &MakeDequantize},
    {"StreamingQuantize", CallKind::kStream, &MakeQuantizeStream},
    {"StreamingDequantize", CallKind::kStream, &MakeDequantizeStream},
    {"Calibrate", CallKind::kStream, &MakeCalibrateStream},
    {"Plan", CallKind::kUnary, &MakePlan},
    {"ListSchemes", CallKind::kUnary, &MakeListSchemes},
    {"GetServerInfo", CallKind::kUnary, &MakeGetServerInfo},
};

constexpr Method kHealthMethods[] = {
    {"Check", CallKind::kHealth, &MakeHealthCheck},
    {"Watch", CallKind::kHealth, &MakeHealthWatch},
};

class RawService final : public grpc::Service {
 public:
  // `methods` outlive this.
  RawService(ServiceContext& context, absl::string_view name, std::span<const Method> methods) {
    using grpc::internal::RpcMethod;
    using Handler = grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>;
    for (const Method& method : methods) {
      paths_.push_back(absl::StrCat("/", name, "/", method.name));
      AddMethod(new grpc::internal::RpcServiceMethod(
          paths_.back().c_str(), RpcMethod::BIDI_STREAMING, /*handler=*/nullptr));
      const auto serve = [&context, &method](grpc::CallbackServerContext* call) {
        return Serve(context, *call, method.name, method.kind, method.make);
      };
      MarkMethodRawCallback(static_cast<int>(paths_.size()) - 1, new Handler(serve));
    }
  }

 private:
  std::deque<std::string> paths_;  // which gRPC's methods point to
};

}  // namespace

std::unique_ptr<grpc::Service> MakeQuantizeService(ServiceContext& context) {
  return std::make_unique<RawService>(context, v1::QuantizationService::service_full_name(),
                                      kMethods);
}

std::unique_ptr<grpc::Service> MakeHealthService(ServiceContext& context) {
  return std::make_unique<RawService>(context, "grpc.health.v1.Health", kHealthMethods);
}

}  // namespace quantd
