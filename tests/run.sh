#!/usr/bin/env bash
# Builds everything and runs the whole test suite.
#   tests/run.sh [--preset release|asan|tsan] [CTEST ARGUMENT...]
# The presets are those of CMakePresets.json: asan is AddressSanitizer with UBSan, tsan ThreadSanitizer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=release
if [[ ${1:-} == --preset ]]; then
  preset=${2:-}
  shift $(($# < 2 ? $# : 2))
fi
case $preset in
  release | asan | tsan) ;;
  *)
    echo "unknown preset \"$preset\"; known: release, asan, tsan" >&2
    exit 2
    ;;
esac

deploy/install-packages.sh

# Test clients are Python programs; their packages are pinned and stay in a folder of their own.
venv=.venv-tests
if ! cmp -s tests/requirements.txt "$venv/installed.txt"; then
  echo "Installing the Python packages of tests/requirements.txt into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$venv/installed.txt"
fi

# promtool alone of Debian's package `prometheus`, which would start a server when installed.
if [[ ! -x $venv/bin/promtool ]]; then
  download=$(mktemp -d)
  (cd "$download" && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .)
  install -m 755 "$download/usr/bin/promtool" "$venv/bin/"
  rm -r "$download"
fi

cmake --preset "$preset" -DQUANTD_BUILD_TESTS=ON "-DQUANTD_TEST_PYTHON=$PWD/$venv/bin/python"
cmake --build --preset "$preset" --parallel "$(nproc)"
if [[ $preset == release ]]; then
  cmake --build --preset release --parallel "$(nproc)" --target benchmarks
fi

export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:quarantine_size_mb=16:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
tsan_options="ignore_noninstrumented_modules=1 second_deadlock_stack=1"
export TSAN_OPTIONS="$tsan_options suppressions='$PWD/tests/tsan.supp' ${TSAN_OPTIONS:-}"
# Tests reach servers on loopback, which a proxy cannot.
export no_grpc_proxy=127.0.0.1,localhost
# TSan of GCC 12 dies at addresses that newer kernels may choose ("unexpected memory mapping").
run=()
if [[ $preset == tsan ]] && setarch -R true 2>/dev/null; then
  run=(setarch -R)
fi
exec "${run[@]}" ctest --preset "$preset" --parallel "$(nproc)" "$@"
