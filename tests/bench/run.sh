#!/usr/bin/env bash
# Builds the benchmarks and prints their tables with ratios, and at the end the README's figures; JSON and text go to
# build/bench. Takes a quarter of an hour on two cores, which should have nothing else to do.
#   tests/bench/run.sh [GOOGLE BENCHMARK ARGUMENT...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
deploy/install-packages.sh
tables=(core_bench local_bench wire_bench)
others=(startup_bench small_calls_bench scaling_bench overload_bench)
cmake --preset release -DQUANTD_BUILD_TESTS=ON --log-level=NOTICE
cmake --build --preset release --parallel "$(nproc)" --target "${tables[@]}" "${others[@]}"
mkdir -p build/bench
failed=()
for bench in "${tables[@]}"; do
  echo "== $bench"
  build/tests/$bench --json=build/bench/${bench%_bench}.json "$@" || failed+=("$bench")
done
# Those have goals of their own and say where one is missed.
for bench in "${others[@]}"; do
  echo "== $bench"
  build/tests/$bench 2>&1 | tee build/bench/${bench%_bench}.txt || failed+=("$bench")
done
echo "== README"
tests/bench/summary build/bench | tee build/bench/summary.md
if ((${#failed[@]} > 0)); then
  echo "missed or failed: ${failed[*]}" >&2
  exit 1
fi
