#!/usr/bin/env bash
# An inventory for Ansible: the running EC2 instances that have all of the tags, by their private addresses.
#   RELMGR_TAGS='Role=web Environment=production' ansible-playbook -i inventory-ec2.sh site.yml
# Their variables stand in group_vars/relmgr.yml beside it. It needs the aws command, and no collection.
set -euo pipefail

usage='Usage: inventory-ec2.sh --list
RELMGR_TAGS: TAG=VALUE…, separated by spaces.'
case ${1-} in
-h | --help) echo "$usage"; exit 0 ;;
--list) ;;
*) echo "$usage" >&2; exit 2 ;;
esac
read -r -a tags <<<"${RELMGR_TAGS:?is not set: the tags of the hosts, such as Role=web Environment=production}"
hosts=$("$(dirname "${BASH_SOURCE[0]}")/../ec2-hosts.sh" "${tags[@]}")
printf '{"relmgr": {"hosts": ["%s"]}, "_meta": {"hostvars": {}}}\n' "${hosts//$'\n'/\", \"}"
