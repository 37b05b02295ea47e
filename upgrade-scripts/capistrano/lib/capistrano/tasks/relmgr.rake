# frozen_string_literal: true

# relmgr:upgrade, downgrade, status, check_version. Hosts are taken one after another; the first that does not take a
# release ends it with relmgr's words and exit code, and those after it are as they were.

require 'json'
require 'open3'
require 'shellwords'

# The private addresses of running EC2 instances with all of these tags ('Role=web'). None is a fault.
def relmgr_ec2_hosts(*tags)
  filters = ['Name=instance-state-name,Values=running']
  filters += tags.map { |tag| format('Name=tag:%s,Values=%s', *tag.split('=', 2)) }
  out, error, done = Open3.capture3('aws', 'ec2', 'describe-instances', '--output', 'json', '--filters', *filters)
  abort "relmgr: aws: #{error.strip}" unless done.success?
  instances = JSON.parse(out).fetch('Reservations').flat_map { |reservation| reservation.fetch('Instances') }
  hosts = instances.map { |instance| instance['PrivateIpAddress'] }.compact.uniq.sort
  abort "relmgr: no running instance has #{tags.join(' ')}" if hosts.empty?
  hosts
end

namespace :relmgr do
  # Runs the block for one host after another; whatever fails there ends cap with its exit code.
  def relmgr_each(&block)
    hosts = roles(fetch(:relmgr_roles, :app))
    abort 'relmgr: no host has one of the roles (relmgr_roles)' if hosts.empty?
    on(hosts, in: :sequence, &block)
  rescue SSHKit::Runner::ExecuteError => e
    warn "relmgr: #{e.message}"
    # 255 is what ssh itself says of a host that it does not reach or that does not let it in.
    exit((e.message[/exit status: (\d+)/, 1] || 255).to_i)
  end

  # `relmgr arguments…` for the node of a host, as words for its shell.
  def relmgr_words(*arguments)
    home = fetch(:relmgr_home, '/var/lib/relmgr')
    ['env', "RELMGR_HOME=#{home}", 'relmgr', *arguments].map { |word| Shellwords.escape(word) }.join(' ')
  end

  # Where relmgr_required says which relmgr: ends it before a node is touched, unless every host has that one.
  def relmgr_expect
    wanted = fetch(:relmgr_required, nil)
    return unless wanted

    words = relmgr_words('version', '--json')
    relmgr_each do
      found = JSON.parse(capture(words))['relmgr']
      raise "has relmgr #{found}, not #{wanted}; no node was touched (exit status: 1)" unless found == wanted
    end
  end

  desc 'Upgrade to VERSION (default: what the channel names), one host after another; CHANNEL=name'
  task :upgrade do
    relmgr_expect
    # The channel may move meanwhile: the others get what the first one got.
    version = ENV.fetch('VERSION', nil)
    channel = ENV.fetch('CHANNEL', nil)
    # Within the block `self` is the connection, which knows nothing of relmgr_home.
    words = ->(*arguments) { relmgr_words(*arguments) }
    relmgr_each do
      asked = if version then [version]
              elsif channel then ['--channel', channel]
              else []
              end
      execute words.call('upgrade', *asked)
      now = JSON.parse(capture(words.call('version', '--json')))['current']
      version ||= now
      raise "serves #{now}, not #{version}" unless now == version
    end
  end

  desc 'Downgrade to VERSION (default: the release before), one host after another'
  task :downgrade do
    relmgr_expect
    words = relmgr_words('downgrade', *[ENV.fetch('VERSION', nil)].compact)
    relmgr_each { execute words }
  end

  desc 'Show what each host serves'
  task :status do
    words = relmgr_words('status')
    relmgr_each { |host| puts "== #{host}", capture(words, strip: false) }
  end

  desc 'Fail unless every host serves VERSION (default: the same one)'
  task :check_version do
    version = ENV.fetch('VERSION', nil)
    words = relmgr_words('version', '--json')
    relmgr_each do |host|
      now = JSON.parse(capture(words))['current']
      puts "#{host}: #{now || 'no release'}"
      version ||= now
      # The exit code of a refusal.
      raise "serves #{now || 'no release'}, not #{version} (exit status: 1)" unless now && now == version
    end
  end
end
