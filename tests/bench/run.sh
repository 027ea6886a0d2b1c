#!/usr/bin/env bash
# Builds the benchmarks and prints their tables; JSON goes to build/bench.
#   tests/bench/run.sh [GOOGLE BENCHMARK ARGUMENT...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
deploy/install-packages.sh
cmake --preset release -DQUANTD_BUILD_TESTS=ON --log-level=NOTICE
cmake --build --preset release --parallel "$(nproc)" --target core_bench local_bench wire_bench
mkdir -p build/bench
build/tests/core_bench --json=build/bench/core.json "$@"
build/tests/local_bench --json=build/bench/local.json "$@"
build/tests/wire_bench --json=build/bench/wire.json "$@"
