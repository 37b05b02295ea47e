# frozen_string_literal: true

# Hosts by name …
#   server 'www1', user: 'deploy', roles: %w[app]
# … or all running EC2 instances with these tags, asked for when the command runs (needs the aws command).
relmgr_ec2_hosts('Role=web', 'Environment=production').each do |address|
  server address, user: 'deploy', roles: %w[app]
end
