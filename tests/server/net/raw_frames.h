#ifndef QUANTD_TESTS_SERVER_NET_RAW_FRAMES_H_
#define QUANTD_TESTS_SERVER_NET_RAW_FRAMES_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/net/frame_walker.h"

// HTTP/2 by hand: RFC 9113, and RFC 7541 for headers.
namespace quantd::testing {

inline constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

inline std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  std::string head;
  for (const int shift : {16, 8, 0}) head += static_cast<char>(payload.size() >> shift);
  head += static_cast<char>(type);
  head += static_cast<char>(flags);
  for (const int shift : {24, 16, 8, 0}) head += static_cast<char>(stream >> shift);
  return absl::StrCat(head, payload);
}

// A string of HPACK, of less than 127 + 128 bytes.
inline std::string Text(absl::string_view text) {
  if (text.size() < 127) return absl::StrCat(std::string(1, static_cast<char>(text.size())), text);
  std::string length = "\x7f";
  length += static_cast<char>((text.size() - 127) | 0x80);
  length += static_cast<char>((text.size() - 127) >> 7);
  return absl::StrCat(length, text);
}

inline std::string Field(absl::string_view name, absl::string_view value) {
  return absl::StrCat(std::string(1, '\0'), Text(name), Text(value));
}

// The headers of a gRPC call.
inline std::string CallHeaders(absl::string_view path) {
  return absl::StrCat(Field(":method", "POST"), Field(":scheme", "http"), Field(":path", path),
                      Field(":authority", "x"), Field("te", "trailers"),
                      Field("content-type", "application/grpc"));
}

inline std::string OpenCall(uint32_t stream, absl::string_view path) {
  return Frame(kHeadersFrame, kEndHeadersFlag, stream, CallHeaders(path));
}

inline std::string Reset(uint32_t stream) {
  return Frame(kResetFrame, 0, stream, absl::string_view("\0\0\0\x8", 4));
}

// A whole, empty message of gRPC, after which the client sends nothing.
inline std::string EmptyMessage(uint32_t stream) {
  return Frame(kDataFrame, kEndStreamFlag, stream, absl::string_view("\0\0\0\0\0", 5));
}

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SERVER_NET_RAW_FRAMES_H_
