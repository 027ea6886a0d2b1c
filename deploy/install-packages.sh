#!/usr/bin/env bash
# Installs the Debian packages of deploy/apt-packages.txt. Does nothing where all are there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  cat >&2 <<'END'
This system has no apt-get, so it is neither Debian nor Ubuntu. Build and run in Docker instead:
    docker build -t quantd .
    docker run --rm quantd --help
END
  exit 1
fi

mapfile -t wanted < <(grep -vE '^[[:space:]]*(#|$)' deploy/apt-packages.txt)
# dpkg-query fails where it does not know one of them, and still prints the others.
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null || true)
missing=()
for package in "${wanted[@]}"; do
  grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi

as_root=()
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    cat >&2 <<END
These packages are missing, and installing them needs root, but there is no sudo. As root, run:
    apt-get update
    apt-get install -y --no-install-recommends ${missing[*]}
END
    exit 1
  fi
  as_root=(sudo)
fi

echo "Installing: ${missing[*]}"
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"
}
# Lists that are there may suffice where the network does not answer.
apt_get update -q || echo "apt-get update failed; going on with the package lists that are there" >&2
apt_get install -q -y --no-install-recommends "${missing[@]}"
