#!/usr/bin/env bash
# Upgrades nodes one after another over ssh. All of them are asked first; then the first that does not take the release
# ends it, with its words and its exit code, and those after it are as they were. Run it again: those that serve the
# release already are left alone.
set -euo pipefail

usage='Usage: deploy.sh [OPTION…] HOST[:HOME]…
HOST is what ssh knows (user@name, an alias of ssh_config). HOME: the node, default /var/lib/relmgr; several nodes of
one machine are several arguments.
  -v VERSION   the release; default: what the channel of the first node names, for all of them
  -c CHANNEL   another channel than the nodes'\'' own
  -r VERSION   refuse to begin unless every host has this version of relmgr
  -u URL       ask here, too, which version serves, with %h for the host: http://%h:8080/api/public/version
  -F FILE      configuration of ssh, instead of the user'\''s own
Exit codes: 0 all serve it; else those of relmgr for the node that failed (3: rolled back, 5: another operation is
running), 127 no relmgr there, 255 ssh (unreachable, a key that is not accepted, a host key that changed).'

version='' channel='' relmgr='' url=''
# No question that nobody is there to answer, no host that is waited for for ever.
ssh=(ssh -o BatchMode=yes -o ConnectTimeout="${DEPLOY_CONNECT_TIMEOUT:-10}" -o ServerAliveInterval=15)
while getopts ':v:c:r:u:F:h' option; do
    case $option in
    v) version=$OPTARG ;;
    c) channel=$OPTARG ;;
    r) relmgr=$OPTARG ;;
    u) url=$OPTARG ;;
    F) ssh+=(-F "$OPTARG") ;;
    h) echo "$usage"; exit 0 ;;
    *) echo "$usage" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [ $# -eq 0 ] || { [ -n "$version" ] && [ -n "$channel" ]; }; then
    echo "$usage" >&2
    exit 2
fi

say() { echo "deploy.sh: $*" >&2; }

# Runs `relmgr ARGUMENT…` for the node NAME (HOST or HOST:HOME). stdin stays here.
on() {
    local name=$1 words=''
    shift
    printf -v words ' %q' "$@"
    home=/var/lib/relmgr
    case $name in *:/*) home=${name#*:} ;; esac
    printf -v home '%q' "$home"
    "${ssh[@]}" -n -- "${name%%:/*}" "RELMGR_HOME=$home relmgr$words"
}

# The value of KEY, a string, in the JSON on stdin: what is on every machine is sed.
field() { sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" | head -n 1; }

# The version that NODE serves.
serving() { on "$1" version --json | field current; }

failed() {
    local code=$1 name=$2
    shift 2
    say "$name: $* (exit code $code)"
    exit "$code"
}

# 1. Every host is there, lets us in, and has a relmgr that we know and whose node runs.
for name in "$@"; do
    found=$(on "$name" version --json) || failed $? "$name" "cannot be asked; no node was touched"
    found=$(field relmgr <<<"$found")
    if [ -n "$relmgr" ] && [ "$found" != "$relmgr" ]; then
        failed 1 "$name" "has relmgr $found, not $relmgr; no node was touched"
    fi
    on "$name" ping >&2 || failed $? "$name" "its node does not answer; no node was touched"
done

# 2. One after another.
done=0
for name in "$@"; do
    arguments=(upgrade)
    if [ -n "$version" ]; then
        arguments+=("$version")
    elif [ -n "$channel" ]; then
        arguments+=(--channel "$channel")
    fi
    say "$name: relmgr ${arguments[*]}"
    on "$name" "${arguments[@]}" || failed $? "$name" "did not take it; done before it: $done of $#"
    now=$(serving "$name") || failed $? "$name" "took it and cannot be asked; done before it: $done of $#"
    # The channel may move meanwhile: the others get what the first one got.
    version=${version:-$now}
    if [ "$now" != "$version" ]; then
        failed 1 "$name" "serves $now, not $version; done before it: $done of $#"
    fi
    if [ -n "$url" ]; then
        host=${name%%:/*}
        asked=${url//%h/${host#*@}}
        told=$(curl --fail --silent --show-error --max-time 10 "$asked") ||
            failed 1 "$name" "does not answer at $asked; done before it: $done of $#"
        [ "$told" = "$version" ] || failed 1 "$name" "answers $told at $asked, not $version"
    fi
    done=$((done + 1))
done
say "$done of $# serve $version"
