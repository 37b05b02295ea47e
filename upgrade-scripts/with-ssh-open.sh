#!/usr/bin/env bash
# Opens port 22 of a security group to this machine's own address while a command runs, for CI whose address nobody
# knows before. Closed again however it ends: success, failure, signal.
#   with-ssh-open.sh sg-0123456789abcdef0 upgrade-scripts/deploy.sh -v "$VERSION" www1 www2
# It needs ec2:AuthorizeSecurityGroupIngress and ec2:RevokeSecurityGroupIngress for that one group
# (iam/ci-security-group.json). Better: a runner within the network, or AWS's session manager as ssh's ProxyCommand.
set -euo pipefail

usage='Usage: with-ssh-open.sh SECURITY_GROUP COMMAND…
CI_ADDRESS: this machine'\''s public IPv4 address; default: what https://checkip.amazonaws.com says.'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; esac
if [ $# -lt 2 ]; then
    echo "$usage" >&2
    exit 2
fi
group=$1
shift
address=${CI_ADDRESS:-$(curl --fail --silent --show-error --max-time 10 https://checkip.amazonaws.com)}
if ! [[ $address =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]]; then
    echo "with-ssh-open.sh: '$address' is no IPv4 address" >&2
    exit 1
fi
rule=(--group-id "$group" --protocol tcp --port 22 --cidr "$address/32")

child=''
# Whether the rule is this run's: not asked for, asked, ours, theirs.
state=none said=''
# The command has been told to end: it may take five seconds.
# shellcheck disable=SC2317 # the trap calls it
reap() {
    for _ in {1..50}; do
        kill -0 "$child" 2>/dev/null || return 0
        sleep 0.1
    done
    echo "with-ssh-open.sh: the command does not end, and is killed" >&2
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
}
# Before it is opened: a signal may come between the two. What another run has opened is not closed; where it cannot be
# known (aws was killed while it asked), closed is the safe side, and that there is nothing to close is no fault. It is
# closed before the command has ended: one that hangs does not keep it open.
# shellcheck disable=SC2317 # the trap calls it
close() {
    local code=$? closed=''
    trap - EXIT
    # Once more is no reason to leave it open.
    trap '' INT TERM HUP
    if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi
    if [ "$state" = none ] || [ "$state" = theirs ] || [[ $said == *InvalidPermission.Duplicate* ]]; then
        :
    elif closed=$(aws ec2 revoke-security-group-ingress "${rule[@]}" --output text 2>&1); then
        echo "with-ssh-open.sh: $group is closed to $address again" >&2
    elif [[ $closed != *InvalidPermission.NotFound* ]]; then
        echo "with-ssh-open.sh: $group MAY STILL BE OPEN to $address: $closed" >&2
        [ "$code" -ne 0 ] || code=1
    fi
    if [ -n "$child" ]; then reap; fi
    exit "$code"
}
trap close EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

state=asked
if said=$(aws ec2 authorize-security-group-ingress "${rule[@]}" --output text 2>&1); then
    state=ours
    echo "with-ssh-open.sh: $group is open to $address" >&2
elif [[ $said == *InvalidPermission.Duplicate* ]]; then
    state=theirs
    echo "with-ssh-open.sh: $group was open to $address before, and is left so: another run uses it, or one was killed;" \
        "to close it: aws ec2 revoke-security-group-ingress ${rule[*]}" >&2
else
    echo "with-ssh-open.sh: $group is not opened: $said" >&2
    # What was refused is not open; of what was broken off nobody knows.
    if [[ $said == *'An error occurred ('* ]]; then state=none; fi
    exit 1
fi
# In the background, since bash runs a trap only after what is in the foreground has ended.
"$@" <&0 &
child=$!
code=0
wait "$child" || code=$?
child=''
exit "$code"
