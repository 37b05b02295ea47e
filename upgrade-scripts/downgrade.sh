#!/usr/bin/env bash
# Takes the node of this machine back. From elsewhere: ssh www1 bash -s < upgrade-scripts/downgrade.sh
#
# It can be repeated, after an ssh that was dropped for one. `relmgr downgrade` alone cannot: it goes to the release
# before, which after a downgrade is the one that was left. So the release is named, and relmgr goes to an older one
# only; and what was taken back already is not taken back further.
set -euo pipefail

usage='Usage: downgrade.sh [VERSION]
VERSION: default, the release that served before; a node whose last upgrade was taken back already is left alone, and
going further back needs the name. RELMGR_HOME: the node, default /var/lib/relmgr.
Exit codes: those of relmgr.'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; -*) echo "$usage" >&2; exit 2 ;; esac
if [ $# -gt 1 ]; then
    echo "$usage" >&2
    exit 2
fi
export RELMGR_HOME=${RELMGR_HOME:-/var/lib/relmgr}

# The part of the node's status that a pattern finds; what is on every machine is sed.
part() { sed -n "s/.*$1.*/\1/p" <<<"$status"; }
text='"\([^"]*\)"'

if [ $# -eq 0 ]; then
    # stdin may be this script.
    status=$(relmgr status --json </dev/null)
    last=$(part "\"last_operation\":{\"kind\":$text")
    outcome=$(part '"last_operation":{"kind":[^,]*,"from":[^,]*,"to":[^,]*,"outcome":'"$text")
    # While another operation is under way, the last one says nothing of what serves.
    case "$(part "\"phase\":$text") $last $outcome" in
    'steady downgrade done' | 'steady upgrade rolled_back')
        current=$(part "\"current\":{\"version\":$text")
        echo "downgrade.sh: ${current:-nothing} serves: the last change was taken back already;" \
            "to go further back, name a VERSION" >&2
        exit 0
        ;;
    esac
    prev=$(part "\"prev\":{\"version\":$text")
    # Without one relmgr says so.
    if [ -n "$prev" ]; then
        echo "downgrade.sh: to $prev, which served before" >&2
        set -- "$prev"
    fi
fi
exec relmgr downgrade "$@"
