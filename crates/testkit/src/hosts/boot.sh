#!/bin/bash
# Process 1 of a host: makes its root out of this machine's, over which what it writes lies in memory, and becomes
# systemd. Called with the directory to mount on, the host's name, its address and the one of who made it.
set -eu
base=$1 name=$2 address=$3 gateway=$4
root=$base/root

mount --make-rprivate /
mount -t tmpfs -o size=4g,mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$root"

# What the machine outside is called there; /proc is still its own.
read -r pid _ </proc/self/stat
echo "$pid"
# Until the network reaches in.
read -r _
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
hostname "$name"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=700 tmpfs "$root/root"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

echo "$name" >"$root/etc/hostname"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
# What this machine may have enabled is none of the host's, and nothing of the kernel's is.
rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/nologin" "$root/var/lib/relmgr"
for unit in systemd-sysctl systemd-modules-load systemd-remount-fs systemd-udevd systemd-udev-trigger \
    systemd-logind systemd-binfmt systemd-update-utmp systemd-update-utmp-runlevel e2scrub_reap; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
for unit in getty.target dbus.service dbus.socket sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-fs-fuse-connections.mount dev-hugepages.mount proc-sys-fs-binfmt_misc.automount remote-fs.target \
    timers.target systemd-journald-audit.socket; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s /lib/systemd/system/ssh.service "$root/etc/systemd/system/multi-user.target.wants/ssh.service"
# Not by useradd, which waits for locks. Without PAM a password that is locked locks the account; `*` only matches none.
echo 'deploy:x:4242:4242::/home/deploy:/bin/bash' >>"$root/etc/passwd"
echo 'deploy:x:4242:' >>"$root/etc/group"
echo 'deploy:*:20000:0:99999:7:::' >>"$root/etc/shadow"
echo 'deploy:!::' >>"$root/etc/gshadow"
install --directory --owner=4242 --group=4242 "$root/home/deploy"

cd "$root"
pivot_root . mnt
umount -l mnt
exec env -i container=relmgr-testkit PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target --show-status=no
