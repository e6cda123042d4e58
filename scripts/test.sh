#!/usr/bin/env bash
# All tests on Debian 12, with all of their own set-up: packages, models, the release build with every test, and the quick
# tests once more under AddressSanitizer and UBSan.
set -euo pipefail
case "${1:-}" in
-h | --help)
    sed -n '2,3p' "$0" | sed 's/^# \{0,1\}//'
    exit 0
    ;;
esac
cd "$(dirname "$0")/.."

started=$SECONDS
stage() {
    printf '\n== %s  (%d s so far)\n' "$1" $((SECONDS - started))
}

stage "1/5 packages"
scripts/setup --tests

stage "2/5 models"
scripts/models --profile small
scripts/models --profile standard

stage "3/5 build"
command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] ||
    echo "no nvcc: the CUDA kernels are compiled and tested for the host only (docs/cuda.md)"
cmake --preset release "-DCAIRN_TESTS=*" >/dev/null
cmake --build --preset release
cmake --preset asan >/dev/null
cmake --build --preset asan

stage "4/5 quick tests under asan and ubsan"
ctest --preset asan -L quick --no-tests=error

stage "5/5 all tests"
ctest --preset release --no-tests=error
printf '\nall tests passed in %d s\n' $((SECONDS - started))
