# frozen_string_literal: true

lock '~> 3.17'

# What all stages share. Nothing is checked out on the hosts.
set :scm, nil
set :application, 'live-poll'
# A host whose key is not known, or has changed, is a fault; without this an unknown one is let pass.
set :ssh_options, { verify_host_key: :always }
# The node on each host.
set :relmgr_home, '/var/lib/relmgr'
# Which hosts have one.
set :relmgr_roles, :app
# The version of relmgr itself that every host must have before a node is touched; unset: any.
#   set :relmgr_required, '0.1.0'
