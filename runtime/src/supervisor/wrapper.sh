#!/bin/sh
# Written by `relmgr run` at each start: what is changed here is lost. For scripts that call `bin/APP upgrade VERSION`.
set -eu
RELMGR_HOME=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd -P)
export RELMGR_HOME
relmgr=@RELMGR@
[ -x "$relmgr" ] || relmgr=relmgr

if [ $# -eq 0 ]; then
    cat >&2 <<USAGE
Usage: $0 COMMAND
  start               run the node in the background and wait until it serves (systemd does it better)
  foreground          run the node
  stop                stop the node gracefully
  ping                ask whether the node runs
  upgrade [VERSION]   go to a newer release while serving
  downgrade [VERSION] go back to the release before, or to VERSION, while serving
  remote COMMAND      any command of relmgr, such as \`remote status\`
Other commands are relmgr's own as well. The node: $RELMGR_HOME
USAGE
    exit 2
fi
command=$1
shift

start() {
    if "$relmgr" ping 2>/dev/null; then
        return
    fi
    log=$RELMGR_HOME/run/relmgr.log
    mkdir -p "$RELMGR_HOME/run"
    setsid "$relmgr" run >>"$log" 2>&1 </dev/null &
    pid=$!
    until "$relmgr" status --json 2>/dev/null | grep -q '"phase": *"[^b]'; do
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 5 -- "$log" >&2
            echo "$0: the node did not start; its log is $log" >&2
            exit 1
        fi
        sleep 0.1
    done
    "$relmgr" ping
}

case $command in
start) start ;;
foreground) exec "$relmgr" run "$@" ;;
remote) exec "$relmgr" "$@" ;;
*) exec "$relmgr" "$command" "$@" ;;
esac
