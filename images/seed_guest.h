#pragma once

#include <string_view>

// What the seed writes into a guest that has systemd and cloud-init. Other guests get the files too and leave them alone.

namespace vmtest {

inline constexpr std::string_view kReadyScriptPath = "/usr/local/lib/vmtest/ready";
inline constexpr std::string_view kSeedCheckPath = "/usr/local/lib/vmtest/seed-is-new";

/// Head of the script at kReadyScriptPath, both profiles. The seed puts `id=...`, `address_wanted=...` and the functions
/// `commands` and `main` behind it.
inline constexpr std::string_view kReadyFunctions = R"sh(#!/bin/sh
# Tells the host, on the console, that this guest is ready. Part of the seed; see vmtest's docs/seed.md.
state=/var/lib/vmtest
log=/var/log/vmtest-commands.log

# The kernel's console; and the virtio console where that is another one, since the host may have nothing else to read: a guest
# that boots from its disk has its kernel's command line from there.
consoles() {
  echo /dev/console
  read -r active </sys/class/tty/console/active
  case $active in
    *hvc0) ;;
    *) [ ! -c /dev/hvc0 ] || echo /dev/hvc0 ;;
  esac
}

# A line of its own, three times: a message of the kernel can split one.
say() {
  for pause in 0.2 0.2 ''; do
    for console in $(consoles); do
      printf '\n%s\n' "$1" >"$console"
    done
    [ -z "$pause" ] || sleep "$pause"
  done
}

fail() {
  mkdir -p "$state"
  echo "$id failed $*" >"$state/commands"
  say "VMTEST_FAILED $*"
  exit 1
}

has_card() {
  for card in /sys/class/net/*; do
    [ ! -e "$card/device" ] || return 0
  done
  return 1
}

# Prints the first IPv4 address, else the first IPv6 one, or nothing.
find_address() {
  second_choice=
  for candidate in $(hostname -I); do
    case $candidate in
      *:*) [ -n "$second_choice" ] || second_choice=$candidate ;;
      *) echo "$candidate" && return ;;
    esac
  done
  [ "$address_wanted" = ipv4 ] || echo "$second_choice"
}

# Sets $address; waits for it at most a minute or so.
wait_for_address() {
  if [ "$address_wanted" = unknown ]; then
    udevadm settle --timeout=30
    has_card || { address=127.0.0.1 && return; }
  fi
  attempts=0
  while address=$(find_address) && [ -z "$address" ]; do
    attempts=$((attempts + 1))
    [ "$attempts" -lt 400 ] || fail "network: no address"
    sleep 0.1
  done
}

# Runs a command of the user, by the name it has for people; the first that fails ends the boot.
run() {
  name=$1
  shift
  "$@" </dev/null >>"$log" 2>&1 && return
  status=$?
  for console in $(consoles); do
    tail -n 20 "$log" >"$console"
  done
  fail "runcmd \"$name\": exit code $status"
}
)sh";

/// Main part for SeedProfile::Fast.
inline constexpr std::string_view kReadyMainFast = R"sh(
main() {
  mkdir -p "$state"
  if [ ! -e /run/cloud-init/status.json ]; then
    # Not a first boot: what there was to do has been done, and `cloud-init status --wait` is not to wait for more.
    mkdir -p /run/cloud-init
    echo '{"v1": {"init-local": {"errors": [], "start": 1, "finished": 1}}}' >/run/cloud-init/status.json
  elif grep -q '"errors": \[$' /run/cloud-init/status.json; then
    fail "cloud-init: $(grep -A 1 '"errors": \[$' /run/cloud-init/status.json | tail -n 1)"
  fi
  [ -e /run/cloud-init/result.json ] || echo '{"v1": {"datasource": "DataSourceNoCloud", "errors": []}}' >/run/cloud-init/result.json
  wait_for_address
  line=
  [ ! -e "$state/commands" ] || read -r line <"$state/commands"
  case $line in
    "$id done") ;;
    "$id failed "*) fail "${line#"$id failed "}" ;;
    *)
      commands
      echo "$id done" >"$state/commands"
      ;;
  esac
  say "VMRS_READY $address"
}

main
)sh";

/// Main part for SeedProfile::Stock: the last line of cloud-init's runcmd calls it, and at later boots cloud-init's own
/// scripts-per-boot module does.
inline constexpr std::string_view kReadyMainStock = R"sh(
case $1 in
  failed)
    fail "runcmd \"$2\": exit code $3"
    ;;
  later-boot)
    line=
    [ ! -e "$state/commands" ] || read -r line <"$state/commands"
    case $line in
      "$id done") ;;
      "$id failed "*) fail "${line#"$id failed "}" ;;
      *) exit 0 ;;
    esac
    ;;
esac
wait_for_address
mkdir -p "$state"
echo "$id done" >"$state/commands"
say "VMRS_READY $address"
)sh";

inline constexpr std::string_view kReadyUnit = R"sh([Unit]
Description=Tell the host that this guest is ready
After=ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=HOME=/root
ExecStart=/usr/local/lib/vmtest/ready
TimeoutStartSec=infinity
)sh";

inline constexpr std::string_view kReadyWanted = "[Unit]\nWants=vmtest-ready.service\n";

/// Succeeds when cloud-init has something to do: ExecCondition of its first stage. The seed's instance-id stands on the
/// medium as it is, so no mount is needed to look for it. `seeded` is written last, so a first boot that was cut off is repeated.
inline constexpr std::string_view kSeedCheckMain = R"sh(
device=$(blkid -c /dev/null -l -t LABEL=cidata -o device)
if [ -e "/var/lib/vmtest/seeded-$id" ] && [ -n "$device" ] && grep -qaF "\"instance-id\":\"$id\"" "$device"; then
  mkdir -p /run/vmtest
  : >/run/vmtest/seeded
  exit 1
fi
exit 0
)sh";

inline constexpr std::string_view kLocalStageCondition = "[Service]\nExecCondition=/usr/local/lib/vmtest/seed-is-new\n";
inline constexpr std::string_view kLaterStageCondition = "[Unit]\nConditionPathExists=!/run/vmtest/seeded\n";

/// The last thing the first stage does: the other three stages' jobs are taken back, and the unit that nobody waits for yet
/// is started. `$1` is the instance-id.
inline constexpr std::string_view kFinishFirstStage =
    "mkdir -p /run/vmtest /var/lib/vmtest && : >/run/vmtest/seeded && : >\"/var/lib/vmtest/seeded-$1\" && "
    "systemctl --no-block stop cloud-init.service cloud-config.service cloud-final.service && "
    "systemctl --no-block start vmtest-ready.service";

/// See kernel_parameters(). Notices (`loglevel=6`) stay, with "Linux version" among them; systemd reports failures only.
inline constexpr std::string_view kFastKernelParameters =
    "ci.ds=NoCloud module_blacklist=kvm,kvm_amd,kvm_intel,ccp,powernow_k8,cfg80211 fsck.mode=skip "
    "systemd.mask=e2scrub_reap.service loglevel=6 systemd.show_status=error";

/// A session's sshd is a fork of the one that listens and does not load the program anew (`-r`), which takes longest of all that
/// a login does. Since OpenSSH 9.8 this is ignored.
inline constexpr std::string_view kSshdOptions = "SSHD_OPTS=-r\n";

/// Logins without PAM, so without logind session, user manager and motd, and with the cheapest good key exchange.
inline constexpr std::string_view kSshdDropIn =
    R"sh(# Cheap logins for tests. Seed profile "stock" leaves sshd as the distribution has it.
HostKey /etc/ssh/ssh_host_ed25519_key
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
GSSAPIAuthentication no
UseDNS no
PrintMotd no
PrintLastLog no
)sh";

}  // namespace vmtest
