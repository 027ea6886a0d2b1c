#!/usr/bin/env bash
# Installs what tests/golden/NAME.txt lists into the virtual environment build-parity/venv-NAME, once.
#   tests/parity/install.sh NAME
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
list=tests/golden/$1.txt
venv=build-parity/venv-$1
if cmp -s "$list" "$venv/installed.txt"; then
  exit 0
fi
echo "== installing $list" >&2
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$list"
cp "$list" "$venv/installed.txt"
