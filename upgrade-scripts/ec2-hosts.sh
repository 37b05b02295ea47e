#!/usr/bin/env bash
# Prints the private addresses of the running EC2 instances with a tag, one a line, sorted.
#   deploy.sh -c staging $(ec2-hosts.sh Role=web Environment=staging)
# None is a fault: a deployment to nobody is no success.
set -euo pipefail

usage='Usage: ec2-hosts.sh TAG=VALUE…
AWS credentials and region: as for the aws command (ec2:DescribeInstances).'
case ${1-} in -h | --help) echo "$usage"; exit 0 ;; esac
if [ $# -eq 0 ]; then
    echo "$usage" >&2
    exit 2
fi
filters=('Name=instance-state-name,Values=running')
for tag in "$@"; do
    case $tag in
    ?*=?*) filters+=("Name=tag:${tag%%=*},Values=${tag#*=}") ;;
    *) echo "$usage" >&2; exit 2 ;;
    esac
done
found=$(aws ec2 describe-instances --filters "${filters[@]}" --output text \
    --query 'Reservations[].Instances[].[PrivateIpAddress]')
found=$(grep -v '^None$' <<<"$found" | sort -u || true)
if [ -z "$found" ]; then
    echo "ec2-hosts.sh: no running instance has $*" >&2
    exit 1
fi
echo "$found"
