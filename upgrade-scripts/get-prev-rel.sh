#!/usr/bin/env bash
# Fetches the release that nodes run now, checks it and unpacks it; prints its directory. For CI that compares.
# That nothing is promoted yet is no fault: then nothing is printed. A repository that cannot be read is one.
set -euo pipefail

usage='Usage: get-prev-rel.sh [OPTION OF cargo relmgr previous…]
RELMGR_REPOSITORY: s3://bucket/prefix or file:///directory, required.'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; esac
: "${RELMGR_REPOSITORY:?is not set: s3://bucket/prefix or file:///directory}"

exec cargo relmgr previous --if-any "$@"
