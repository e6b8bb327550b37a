#!/bin/sh
# Brings what the emulated board needs:
#   1. Debian's (Ubuntu's) packages: qemu-user, both linked statically and dynamically (that one takes plugins, which
#      count instructions), an aarch64 C compiler, and the C and C++ libraries it runs against;
#   2. TVM's runtime for aarch64, from the wheels of the versions installed, and the board server, compiled.
# Asks nothing, and does only what is missing, so that it may be run again at any time.
#
#   PYTHON            the interpreter that has tvm_lowbit's dependencies (default: python3)
#   TVM_LOWBIT_CACHE  where step 2 puts its files (default: the user's cache folder)
set -eu

PYTHON=${PYTHON:-python3}
PACKAGES="qemu-user-static qemu-user
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6-arm64-cross libstdc++6-arm64-cross"

missing=""
for package in $PACKAGES; do
    if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed'; then
        missing="$missing $package"
    fi
done

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install_emulator.sh: no apt-get here; install the equivalents of:$missing" >&2
        exit 1
    fi
    sudo=""
    if [ "$(id -u)" -ne 0 ]; then sudo="sudo"; fi
    $sudo apt-get update -q
    # shellcheck disable=SC2086  # a list of words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

# From the folder that holds the package, so that a checkout works without being installed; a relative PYTHON or cache
# path means the caller's folder.
case $PYTHON in /*) ;; */*) PYTHON=$PWD/$PYTHON ;; esac
case ${TVM_LOWBIT_CACHE:-/} in /*) ;; *) TVM_LOWBIT_CACHE=$PWD/$TVM_LOWBIT_CACHE && export TVM_LOWBIT_CACHE ;; esac
cd "$(dirname "$0")/../.."
exec "$PYTHON" -m tvm_lowbit.boards.aarch64_runtime
