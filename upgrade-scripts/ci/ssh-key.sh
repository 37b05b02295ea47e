#!/usr/bin/env bash
# Puts the key of deployments and the hosts' public keys where `ssh -F ~/.ssh/config` finds them. Neither is printed.
set -euo pipefail

: "${DEPLOY_KEY:?is not set: the secret key that the hosts accept}"
: "${KNOWN_HOSTS:?is not set: the public keys of the hosts, as in known_hosts}"
umask 077
mkdir -p ~/.ssh
printf '%s\n' "$DEPLOY_KEY" >~/.ssh/id_deploy
printf '%s\n' "$KNOWN_HOSTS" >~/.ssh/known_hosts_deploy
# Read with `-P ''` so that a key with a password, or no key at all, is told here and not by a refused login.
ssh-keygen -y -P '' -f ~/.ssh/id_deploy >/dev/null || { echo "ssh-key.sh: DEPLOY_KEY is no key without a password" >&2; exit 1; }
# With whole paths, and named by -F: what ssh itself takes for `~` is not $HOME, which a container of CI sets.
if ! grep -q id_deploy ~/.ssh/config 2>/dev/null; then
    printf 'Host *\n  User %s\n  IdentityFile "%s"\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n  UserKnownHostsFile "%s"\n' \
        "${DEPLOY_USER:-deploy}" "$HOME/.ssh/id_deploy" "$HOME/.ssh/known_hosts_deploy" >>~/.ssh/config
fi
