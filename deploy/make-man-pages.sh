#!/usr/bin/env bash
# Makes the manual pages out of what the programs' --help says.
#   deploy/make-man-pages.sh QUANTD QUANTCTL OUT_FOLDER
set -euo pipefail
if [[ $# -ne 3 ]]; then
  sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
quantd=$1
quantctl=$2
out=$3
mkdir -p "$out"

help2man --no-info --section=8 --name="tensor quantization server" "$quantd" >"$out/quantd.8"
help2man --no-info --section=1 --name="quantize tensors" "$quantctl" >"$out/quantctl.1"

# A page for each subcommand: the lines "  NAME   SUMMARY" below "Subcommands:".
"$quantctl" --help | sed -n '/^Subcommands:$/,/^$/s/^  \([a-z]\+\) \+\(.*\)$/\1 \2/p' \
  | while read -r name summary; do
    page=quantctl-$name
    help2man --no-info --section=1 --name="${summary,}" "$quantctl $name" \
      | sed -e "s/^\.TH QUANTCTL /.TH ${page^^} /" -e "s/^quantctl \\\\- /$page \\\\- /" \
        >"$out/$page.1"
  done
gzip -9nf "$out"/*.[18]
