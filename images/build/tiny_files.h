#pragma once

#include <sys/types.h>

#include <array>
#include <string_view>

namespace vmtest {

/// A small text file of the `tiny` image's root file system.
struct TinyFile {
  std::string_view path;
  std::string_view content;
  mode_t mode = 0644;
};

/// What a Unix system finds odd to be without. PID 1 adds users, host name, name servers and keys from the seed.
inline constexpr std::array kTinyFiles{
    TinyFile{"/etc/passwd",
             "root:x:0:0:root:/root:/bin/sh\n"
             "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
             "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    TinyFile{"/etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\ndisk:x:6:\nkvm:x:104:\nusers:x:100:\nnogroup:x:65534:\n"},
    TinyFile{"/etc/shadow", "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n", 0640},
    TinyFile{"/etc/shells", "/bin/sh\n/bin/ash\n"},
    TinyFile{"/etc/profile",
             "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
             "for part in /etc/profile.d/*.sh; do\n  [ -r \"$part\" ] && . \"$part\"\ndone\nunset part\n"},
    TinyFile{"/etc/os-release",
             "ID=vmtest-tiny\nID_LIKE=debian\nVERSION_ID=12\nPRETTY_NAME=\"vmtest tiny (kernel, busybox and dropbear of Debian "
             "12)\"\n"},
    TinyFile{"/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"},
    TinyFile{"/etc/fstab", "LABEL=vmtest-root / ext4 defaults 0 1\n"},
    TinyFile{"/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
};

/// Modules the initramfs needs to mount the root file system: on a virtio disk, over PCI or MMIO.
inline constexpr std::array kTinyEarlyModules = std::to_array<std::string_view>({
    "crc32c_generic",
    "ext4",
    "virtio_blk",
    "virtio_mmio",
    "virtio_pci",
});

// Several names a line, in groups.
// clang-format off
/// Modules on the disk, with all they depend on: devices that the drivers offer, file systems, and what tests of networks,
/// storage and virtualisation load by name.
inline constexpr std::array kTinyModules = std::to_array<std::string_view>({
    // virtio
    "virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "virtio_balloon", "virtio_mem", "virtio_console",
    "virtio_scsi", "virtio_input", "virtio_iommu", "virtio_pmem", "virtiofs", "9p", "9pnet_virtio",
    "vmw_vsock_virtio_transport", "vsock_loopback", "vhost_vsock", "vhost_net",
    // platform
    "button", "evdev", "i6300esb", "softdog", "pvpanic_pci", "pvpanic_mmio", "qemu_fw_cfg", "tpm_tis", "tpm_crb", "e1000", "e1000e",
    "pciehp", "shpchp", "acpiphp", "ptp_kvm", "kvm_amd", "kvm_intel", "msr", "cpuid", "vfio_pci", "uio",
    // storage
    "ahci", "nvme", "sd_mod", "sr_mod", "sg", "usb_storage", "uas", "xhci_pci", "ehci_pci", "usbhid", "hid_generic", "loop", "nbd",
    "brd", "zram", "null_blk", "scsi_debug", "dm_mod", "dm_crypt", "dm_snapshot", "dm_flakey", "raid1",
    // file systems
    "ext4", "crc32c_generic", "crc32c_intel", "isofs", "udf", "vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8",
    "overlay", "squashfs", "btrfs", "xfs", "fuse", "cuse", "configfs", "efivarfs", "binfmt_misc", "autofs4",
    // networks
    "tun", "tap", "veth", "bridge", "8021q", "dummy", "bonding", "macvlan", "ipvlan", "vxlan", "wireguard", "sch_netem", "sch_tbf",
    "sch_htb", "sch_ingress", "cls_u32", "cls_matchall", "act_mirred", "netconsole", "nf_tables", "nft_ct", "nft_nat", "nft_masq",
    "nft_reject_inet", "nft_compat", "nf_conntrack", "ip_tables", "iptable_filter", "iptable_nat", "ip6_tables",
    "ip6table_filter", "xt_conntrack", "xt_MASQUERADE", "xt_tcpudp", "ipt_REJECT", "br_netfilter",
    // ciphers that file systems and device mapper ask for by name
    "aesni_intel", "xts", "cbc", "ctr", "gcm", "sha256_generic", "algif_hash", "algif_skcipher",
});
// clang-format on

}  // namespace vmtest
