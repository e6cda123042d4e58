#!/usr/bin/env bash
# From nothing to a cited, checked answer on Debian 12: packages, build, models, sample documents, one question.
#   scripts/demo.sh ["another question"]
set -euo pipefail
case "${1:-}" in
-h | --help)
    sed -n '2,3p' "$0" | sed 's/^# \{0,1\}//'
    exit 0
    ;;
esac
cd "$(dirname "$0")/.."

question=${1:-"How many weeks of paid leave does the parent who did not give birth get?"}
data=${CAIRN_DEMO_DATA:-var/demo}
started=$SECONDS
stage() {
    printf '\n== %s  (%d s so far)\n' "$1" $((SECONDS - started))
}

stage "1/5 packages"
scripts/setup

stage "2/5 build"
[ -f build/release/build.ninja ] || cmake --preset release -DCAIRN_TESTS=none >/dev/null
cmake --build --preset release --target cairn

stage "3/5 models (1.2 GB the first time)"
scripts/models --profile standard

cairn=build/release/cairn
stage "4/5 sample documents: data/kb -> $data"
"$cairn" ingest --data "$data" handbook data/kb

stage "5/5 question: $question"
status=0
"$cairn" ask --data "$data" handbook "$question" || status=$?

stage "done"
echo "ask something else:   $cairn ask --data $data handbook \"...\""
echo "serve it:             $cairn serve --data $data --listen 127.0.0.1:7420 --http 127.0.0.1:7421"
exit "$status"
