#ifndef QUANTD_CORE_SCHEME_REGISTRY_H_
#define QUANTD_CORE_SCHEME_REGISTRY_H_

#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Returns the rows of schemes.def, in its order. Thread-safe.
std::span<const Scheme* const> AllSchemes();

// Returns the scheme called `name`, or kNotFound that lists the known names. Thread-safe.
absl::StatusOr<const Scheme*> FindScheme(absl::string_view name);

// Fills what `spec` leaves open from the scheme's defaults, and refuses what the scheme does not
// have with kInvalidArgument that says what it has.
absl::StatusOr<QuantSpec> CompleteSpec(const QuantSpec& spec, const Scheme& scheme);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_REGISTRY_H_
