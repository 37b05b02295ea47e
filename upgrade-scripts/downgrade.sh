#!/usr/bin/env bash
# Takes the node of this machine back. From elsewhere: ssh www1 bash -s < upgrade-scripts/downgrade.sh
#
# `relmgr downgrade` goes to the release before, so that two of them end where they began. With VERSION this can be
# repeated: a node that serves it already is left alone.
set -euo pipefail

usage='Usage: downgrade.sh [VERSION]
VERSION: default, the release that served before. RELMGR_HOME: the node, default /var/lib/relmgr.
Exit codes: those of relmgr.'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; -*) echo "$usage" >&2; exit 2 ;; esac
if [ $# -gt 1 ]; then
    echo "$usage" >&2
    exit 2
fi
export RELMGR_HOME=${RELMGR_HOME:-/var/lib/relmgr}

exec relmgr downgrade "$@"
