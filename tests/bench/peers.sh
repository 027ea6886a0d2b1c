#!/usr/bin/env bash
# Times other projects' quantizers beside ours on one thread and prints one table. They are installed in
# build-parity, where tests/parity/run.sh has them too; bitsandbytes alone takes 6 GB. Takes five minutes on
# a machine that should have nothing else to do.
#   tests/bench/peers.sh [PROJECT...]
# PROJECT: ggml, onnx, mlx, bitsandbytes; all of them if none is named.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
core_bench=build/tests/core_bench
[[ -x $core_bench ]] || {
  echo "$core_bench: build it first, by tests/bench/run.sh or as the target benchmarks" >&2
  exit 1
}
declare -A lists=([ggml]=requirements [onnx]=requirements [mlx]=requirements-mlx [bitsandbytes]=requirements-bitsandbytes)
projects=("$@")
[[ $# -gt 0 ]] || projects=(onnx ggml mlx bitsandbytes)

export ORT_DISABLE_TELEMETRY=1  # onnxruntime reports home when it is imported
for project in "${projects[@]}"; do
  [[ -n ${lists[$project]:-} ]] || {
    echo "unknown project \"$project\"; known: ${!lists[*]}" >&2
    exit 2
  }
  tests/parity/install.sh "${lists[$project]}"
done
echo "| ours | peer | encode, GB/s | its | ratio | with figures | decode, GB/s | its | ratio |"
echo "|---|---|---|---|---|---|---|---|---|"
for project in "${projects[@]}"; do
  "build-parity/venv-${lists[$project]}/bin/python" tests/bench/peers.py "$project" "$core_bench"
done
echo
for project in "${projects[@]}"; do
  grep -v -e '^#' -e numpy -e ml_dtypes "tests/golden/${lists[$project]}.txt"
done | sort -u | paste -sd ' '
grep -m 1 'model name' /proc/cpuinfo | cut -d: -f2
