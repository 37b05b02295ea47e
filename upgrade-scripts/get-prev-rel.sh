#!/usr/bin/env bash
# Fetches the release that nodes run now, checks it and unpacks it; prints its directory. For CI that compares.
# A repository in which nothing was published yet is no fault: then nothing is printed.
set -euo pipefail

usage='Usage: get-prev-rel.sh [OPTION OF cargo relmgr previous…]
RELMGR_REPOSITORY: s3://bucket/prefix or file:///directory, required.'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; esac
: "${RELMGR_REPOSITORY:?is not set: s3://bucket/prefix or file:///directory}"

# A repository that cannot be read ends this; one without a release does not.
published=$(cargo relmgr list --json)
if [[ $published != *'"version"'* ]]; then
    echo "get-prev-rel.sh: nothing is published in $RELMGR_REPOSITORY yet" >&2
    exit 0
fi
exec cargo relmgr previous "$@"
