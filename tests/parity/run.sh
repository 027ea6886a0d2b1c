#!/usr/bin/env bash
# Compares our bytes with those that other projects' own code makes here and now, of new random
# values and of those that are hard for each format: tests/golden with another seed. Each project has a
# virtual environment of its own, up to 6 GB, in build-parity; tests/golden/requirements*.txt say
# which versions.
#   tests/parity/run.sh [PROJECT...]
# PROJECT: onnx, ggml, mlx, compressed_tensors, fbgemm, bitsandbytes, sentence_transformers, usearch, modelopt; all of them if
# none is named.
# GOLDEN_TEST names another program than build/tests/core_scheme_test, SEED the seed of an earlier run.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Of each project: the list of its packages, and the scripts that ask it, a line each.
declare -A lists=(
  [onnx]=requirements
  [ggml]=requirements
  [bitsandbytes]=requirements-bitsandbytes
  [mlx]=requirements-mlx
  [compressed_tensors]=requirements-compressed_tensors
  [fbgemm]=requirements-fbgemm
  [sentence_transformers]=requirements-bits
  [usearch]=requirements-usearch
  [modelopt]=requirements-modelopt
)
declare -A scripts=(
  [onnx]='make_golden.py affine fixed floats small_floats q8_0'
  [ggml]=make_ggml.py
  [bitsandbytes]=$'make_bitsandbytes.py\nmake_golden.py nf4'
  [mlx]=make_mlx.py
  [compressed_tensors]=make_compressed_tensors.py
  [fbgemm]=make_fbgemm.py
  [sentence_transformers]=$'make_bits.py\nmake_sentence_transformers.py'
  [usearch]=make_usearch.py
  [modelopt]=make_modelopt.py
)
projects=("$@")
[[ $# -gt 0 ]] || projects=(onnx ggml mlx compressed_tensors fbgemm bitsandbytes sentence_transformers usearch modelopt)
for project in "${projects[@]}"; do
  [[ -n ${lists[$project]:-} ]] || {
    echo "unknown project \"$project\"; known: ${!lists[*]}" >&2
    exit 2
  }
done
test=${GOLDEN_TEST:-build/tests/core_scheme_test}
[[ -x $test ]] || {
  echo "$test: build the tests first" >&2
  exit 1
}

export ORT_DISABLE_TELEMETRY=1  # onnxruntime reports home when it is imported
export QUANTD_GOLDEN_SEED=${SEED:-$(date +%s)}
failed=()
for project in "${projects[@]}"; do
  venv=build-parity/venv-${lists[$project]}
  tests/parity/install.sh "${lists[$project]}"
  export QUANTD_GOLDEN_FOLDER=$PWD/build-parity/$project
  rm -rf "$QUANTD_GOLDEN_FOLDER"
  mkdir -p "$QUANTD_GOLDEN_FOLDER"
  echo "== $project, seed $QUANTD_GOLDEN_SEED"
  while read -r script; do
    # shellcheck disable=SC2086  # a script and its arguments
    "$venv/bin/python" tests/golden/$script
  done <<<"${scripts[$project]}"
  "$test" --gtest_brief=1 --gtest_filter='*/GoldenTest.*' || failed+=("$project")
done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "bytes differ from: ${failed[*]}; again with SEED=$QUANTD_GOLDEN_SEED" >&2
  exit 1
fi
echo "bytes equal those of ${projects[*]}"
