#ifndef QUANTD_TESTS_SUPPORT_LAYOUTS_H_
#define QUANTD_TESTS_SUPPORT_LAYOUTS_H_

#include <cstdint>
#include <random>
#include <string>

#include "core/scheme/scheme.h"

namespace quantd::testing {

// The layout of some tensor.
struct LayoutCase {
  std::string name;
  PackedLayout layout;
  int64_t num_elems = 0;
  int64_t row_elems = 1;  // of the last axis
};

// Returns a layout of up to some 100,000 elements with random groups, atoms, rows, trailers
// and entries of parameters: many that no scheme has.
LayoutCase RandomLayout(std::mt19937& rng);

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SUPPORT_LAYOUTS_H_
