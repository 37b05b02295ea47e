#!/usr/bin/env bash
# Asks which version serves, at each URL; fails unless all of them say VERSION.
#   check-version.sh 2026.1120.192733 http://www1:8080/api/public/version http://www2:8080/api/public/version
set -euo pipefail

usage='Usage: check-version.sh VERSION URL…'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; esac
if [ $# -lt 2 ]; then
    echo "$usage" >&2
    exit 2
fi
version=$1
shift
wrong=0
for url in "$@"; do
    told=$(curl --fail --silent --show-error --max-time 10 "$url") || told='no version'
    if [ "$told" = "$version" ]; then
        echo "$url: $version"
    else
        echo "$url: $told, not $version" >&2
        wrong=1
    fi
done
exit "$wrong"
