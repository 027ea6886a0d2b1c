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

// Fills what `spec` leaves open: from the dialect's defaults, by the scheme's own `complete`, then
// from the scheme's defaults. Refuses what the scheme or the dialect does not have with
// kInvalidArgument that says what it has. Without a tensor, one f32 element stands for it.
absl::StatusOr<QuantSpec> CompleteSpec(const QuantSpec& spec, const Scheme& scheme,
                                       const TensorDesc& tensor = {});

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_REGISTRY_H_
