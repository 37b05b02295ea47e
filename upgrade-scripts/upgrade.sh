#!/usr/bin/env bash
# Upgrades the node of this machine. From elsewhere, with nothing installed but relmgr:
#   ssh www1 bash -s -- 2026.1120.192733 < upgrade-scripts/upgrade.sh
set -euo pipefail

usage='Usage: upgrade.sh [VERSION]
VERSION: default, what the channel of the node names. RELMGR_HOME: the node, default /var/lib/relmgr.
Exit codes: those of relmgr. A node that serves the version already is left alone.'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; -*) echo "$usage" >&2; exit 2 ;; esac
if [ $# -gt 1 ]; then
    echo "$usage" >&2
    exit 2
fi
export RELMGR_HOME=${RELMGR_HOME:-/var/lib/relmgr}

exec relmgr upgrade "$@"
