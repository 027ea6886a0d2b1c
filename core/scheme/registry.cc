// The table of schemes, and how a spec gets what it leaves open. From first to last, and only where
// there is nothing yet:
//
//   given   the dialect's defaults   the scheme's `complete`   the scheme's defaults
//
//   int8                               mode=symmetric, dialect=onnx      the scheme's
//   int8:dialect=compressed_tensors    mode=full                         the dialect's
//   fp8_e4m3:block=128x128             tail=short                        from `complete`
//
// Then it is checked: each key by its row, and that the dialect's fixed keys have their values. A
// completed spec stays as it is when completed again.
//
// Entries: FindScheme and CompleteSpec. Tested by tests/core/scheme/registry_test.cc.
#include "core/scheme/registry.h"

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/similar.h"
#include "core/base/status_macros.h"
#include "core/scheme/spec_keys.h"

namespace quantd {

#define QUANTD_SCHEME(name) const Scheme& name##_scheme();
#include "core/scheme/schemes.def"
#undef QUANTD_SCHEME

namespace {

// Returns the dialect that the spec names or leaves to the scheme; null: the scheme knows none.
absl::StatusOr<const Dialect*> DialectOf(const SchemeInfo& info, const QuantSpec& spec) {
  const SpecKey* key = FindSpecKey("dialect");
  QUANTD_RETURN_IF_ERROR(key->check(*key, info, spec));
  for (const Dialect& dialect : info.dialects) {
    if (spec.dialect.empty() || spec.dialect == dialect.name) return &dialect;
  }
  return nullptr;
}

absl::Status CheckFixed(const SchemeInfo& info, const Dialect& dialect, const QuantSpec& spec) {
  for (const absl::string_view name : dialect.fixed) {
    const SpecKey* key = FindSpecKey(name);
    const std::optional<std::string> value = key->format(spec);
    const std::string has = key->format(dialect.defaults).value_or("");
    if (!value.has_value() || *value == has) continue;
    return absl::InvalidArgumentError(absl::StrCat("dialect ", dialect.name, " of scheme ",
                                                   info.name, " does not have ", name, "=", *value,
                                                   "; it has ", has));
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Scheme* const> AllSchemes() {
#define QUANTD_SCHEME(name) &name##_scheme(),
  static const std::array kSchemes = {
#include "core/scheme/schemes.def"
  };
#undef QUANTD_SCHEME
  return kSchemes;
}

absl::StatusOr<const Scheme*> FindScheme(absl::string_view name) {
  for (const Scheme* scheme : AllSchemes()) {
    if (scheme->info.name == name) return scheme;
  }
  std::vector<std::string> names;
  for (const Scheme* scheme : AllSchemes()) names.emplace_back(scheme->info.name);
  return absl::NotFoundError(absl::StrCat("unknown scheme \"", name, "\"", DidYouMean(name, names),
                                          "; known: ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<QuantSpec> CompleteSpec(const QuantSpec& spec, const Scheme& scheme,
                                       const TensorDesc& tensor) {
  // The text form's own checks of values hold however the spec was made.
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec read, ParseSpec(FormatSpec(spec)));
  if (read != spec) {
    return absl::InvalidArgumentError(absl::StrCat("spec ", FormatSpec(spec), " reads back as ",
                                                   FormatSpec(read),
                                                   "; names have only a-z, 0-9, _ and ."));
  }
  const SchemeInfo& info = scheme.info;
  QuantSpec result = spec;
  QUANTD_ASSIGN_OR_RETURN(const Dialect* dialect, DialectOf(info, spec));
  if (dialect != nullptr) {
    result.dialect = std::string(dialect->name);
    for (const SpecKey& key : SpecKeys()) {
      const std::optional<std::string> value = key.format(dialect->defaults);
      if (!value || !key.IsOpen(result)) continue;
      QUANTD_RETURN_IF_ERROR(key.parse(key, *value, result));
    }
  }
  if (scheme.complete != nullptr) QUANTD_RETURN_IF_ERROR(scheme.complete(info, tensor, result));
  for (const SpecKey& key : SpecKeys()) {
    if (key.IsOpen(result)) {
      const std::optional<std::string> value = key.Default(info);
      if (value) QUANTD_RETURN_IF_ERROR(key.parse(key, *value, result));
    }
    if (key.check != nullptr) QUANTD_RETURN_IF_ERROR(key.check(key, info, result));
  }
  if (dialect != nullptr) QUANTD_RETURN_IF_ERROR(CheckFixed(info, *dialect, result));
  return result;
}

}  // namespace quantd
