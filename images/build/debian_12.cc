#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "build/recipe.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

// The disk is put together without mounting anything: mmdebstrap makes a tar file, mkfs.ext4 -d and mtools fill the file
// systems at their offsets in the disk file, and GRUB is placed by writing its two pieces where its own installer would.
// Root is used as it is found: mmdebstrap works in a user namespace otherwise, and fakeroot keeps the file owners.

namespace vmtest {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPackages =
    // The system.
    "systemd,systemd-sysv,systemd-resolved,udev,dbus,libpam-systemd,linux-image-amd64,initramfs-tools,zstd,kmod,e2fsprogs,"
    // What cloud-init drives, as in Debian's own cloud images.
    "cloud-init,cloud-guest-utils,gdisk,fdisk,eject,locales,openssh-server,openssh-sftp-server,sudo,"
    // What a person and a test expect to find.
    "iproute2,iputils-ping,netbase,ca-certificates,procps,less";
constexpr std::string_view kBootLoaderPackages = "grub-pc-bin,grub-efi-amd64-bin,grub-common";

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kMebibyte = 1024 * 1024;
constexpr std::uint64_t kDiskMebibytes = 3072;
// Partitions, in MiB from the start of the disk.
constexpr std::uint64_t kBiosBootStart = 1;
constexpr std::uint64_t kBiosBootSize = 1;
constexpr std::uint64_t kEspStart = 2;
constexpr std::uint64_t kEspSize = 34;
constexpr std::uint64_t kRootStart = 36;
// The last MiB belongs to the backup partition table.
constexpr std::uint64_t kRootSize = kDiskMebibytes - kRootStart - 1;

/// The identifiers of one image: random, so that two images can be disks of one guest.
struct DiskIds {
  std::string disk = random_uuid();
  std::string root_partition = random_uuid();
  std::string root_filesystem = random_uuid();
};

std::string mebibyte_offset(std::uint64_t mebibytes) { return std::to_string(mebibytes * kMebibyte); }

/// Commands that must see root as the owner of the tree's files. All that changes the tree is such a command: fakeroot remembers
/// owners and kinds of files by inode, and takes a new file for the removed one whose inode it got.
std::vector<std::string> as_owner(const BuildContext& context, std::vector<std::string> argv) {
  if (::geteuid() == 0) {
    return argv;
  }
  const std::string state = (context.scratch / "fakeroot.state").string();
  std::vector<std::string> wrapped = {"fakeroot", "-s", state};
  if (fs::exists(state)) {
    wrapped.insert(wrapped.end(), {"-i", state});
  }
  wrapped.emplace_back("--");
  wrapped.insert(wrapped.end(), argv.begin(), argv.end());
  return wrapped;
}

/// Makes the folders of `path` below `overlay`. Permissions in an overlay are Debian's, whatever the caller's umask is.
fs::path place(const fs::path& overlay, const fs::path& path) {
  fs::path place = overlay;
  for (const fs::path& name : path) {
    fs::create_directories(place);
    fs::permissions(place, fs::perms{0755});
    place /= name;
  }
  return place;
}

void add_file(const fs::path& overlay, std::string_view path, std::string_view content, fs::perms permissions = fs::perms{0644}) {
  const fs::path file = place(overlay, path);
  write_file(file, content);
  fs::permissions(file, permissions);
}

void add_link(const fs::path& overlay, std::string_view path, std::string_view points_to) {
  fs::create_symlink(points_to, place(overlay, path));
}

/// Disk drivers for the initramfs: what QEMU, Cloud Hypervisor and Propolis present, loaded by udev when found. The kernel's
/// other modules stay in the root file system.
constexpr std::string_view kInitramfsHook = R"(#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_mmio virtio_blk virtio_scsi ahci ata_piix nvme sd_mod sr_mod ext4
)";

void install_packages(const BuildContext& context, const fs::path& tar) {
  const fs::path overlay = context.scratch / "initramfs-tools";
  add_file(overlay, "hooks/vm-disks", kInitramfsHook, fs::perms{0755});
  add_file(overlay, "conf.d/vm-disks", "# Only what the root file system needs; see ../hooks/vm-disks.\nMODULES=list\n");
  context.run({"mmdebstrap", "--variant=minbase", "--format=tar", "--include=" + std::string(kPackages),
               // Man pages, translations and most documentation stay out, also of packages that tests install.
               "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/info/*",
               "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
               "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-include=/usr/share/locale/locale.alias",
               // Before the kernel is unpacked, so that the only initramfs made is the one that stays. The name is
               // relative: mmdebstrap splits hooks at blanks, which the scratch folder's own name may hold.
               "--essential-hook=copy-in initramfs-tools /etc", "bookworm", tar.string()});
}

/// What an installer would do after the packages.
void configure(const BuildContext& context, const fs::path& tree, const DiskIds& ids) {
  // Every clone becomes a machine of its own.
  std::vector<std::string> remove_keys = {"rm", "-f", "--"};
  for (const fs::directory_entry& entry : fs::directory_iterator(tree / "etc/ssh")) {
    if (entry.path().filename().string().starts_with("ssh_host_")) {
      remove_keys.push_back(entry.path().string());
    }
  }
  context.run(as_owner(context, remove_keys));
  // mmdebstrap copied these in with the owner they have here.
  context.run(as_owner(context, {"chown", "-R", "0:0", "--", (tree / "etc/initramfs-tools").string()}));

  const fs::path overlay = context.scratch / "configuration";
  add_file(overlay, "etc/machine-id", "", fs::perms{0444});
  add_file(overlay, "etc/hostname", "debian\n");
  add_file(overlay, "etc/hosts",
           "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n");
  add_file(overlay, "etc/default/locale", "LANG=C.UTF-8\n");
  add_file(overlay, "etc/fstab", "UUID=" + ids.root_filesystem + " / ext4 defaults,errors=remount-ro 0 1\n");

  // cloud-init writes its network configuration for systemd-networkd; these links are what `systemctl enable` makes.
  const std::string units = "/lib/systemd/system/";
  const std::string system = "etc/systemd/system/";
  add_link(overlay, system + "dbus-org.freedesktop.network1.service", units + "systemd-networkd.service");
  add_link(overlay, system + "multi-user.target.wants/systemd-networkd.service", units + "systemd-networkd.service");
  add_link(overlay, system + "sockets.target.wants/systemd-networkd.socket", units + "systemd-networkd.socket");
  add_link(overlay, system + "sysinit.target.wants/systemd-network-generator.service",
           units + "systemd-network-generator.service");
  add_link(overlay, system + "network-online.target.wants/systemd-networkd-wait-online.service",
           units + "systemd-networkd-wait-online.service");

  // /vmlinuz and /initrd.img are links that Debian's kernel packages keep up to date.
  add_file(overlay, "boot/grub/grub.cfg",
           "set timeout=0\n"
           "linux /vmlinuz root=PARTUUID=" +
               ids.root_partition +
               // Without the last one a kernel under emulation panics when its timer is late, as on a busy host.
               " ro console=tty0 console=ttyS0 no_timer_check\n"
               "initrd /initrd.img\n"
               "boot\n");
  // Not through links: the tree's point into the guest's file system, not the host's.
  context.run(as_owner(context, {"cp", "-R", "--no-dereference", "--preserve=mode", "--remove-destination",
                                 (overlay / ".").string(), tree.string()}));
}

/// Makes GRUB's core image for one platform, with all modules in it and a first script that goes on to /boot/grub/grub.cfg.
fs::path make_grub_core(const BuildContext& context, const fs::path& grub, const DiskIds& ids, const std::string& platform,
                        const std::vector<std::string>& platform_modules) {
  const fs::path script = context.scratch / "grub-early.cfg";
  write_file(script,
             "serial --unit=0 --speed=115200\n"
             "terminal_output console serial\n"
             "search.fs_uuid " +
                 ids.root_filesystem +
                 " root\n"
                 "configfile /boot/grub/grub.cfg\n");
  const fs::path core = context.scratch / ("grub-" + platform);
  // The program runs by its own loader and libraries, so that nothing has to be installed on the host.
  std::vector<std::string> argv = {(grub / "lib64/ld-linux-x86-64.so.2").string(),
                                   "--library-path",
                                   (grub / "lib/x86_64-linux-gnu").string() + ":" + (grub / "usr/lib/x86_64-linux-gnu").string(),
                                   (grub / "usr/bin/grub-mkimage").string(),
                                   "--directory=" + (grub / "usr/lib/grub" / platform).string(),
                                   "--format=" + platform,
                                   "--output=" + core.string(),
                                   "--config=" + script.string(),
                                   "--prefix=/boot/grub",
                                   "part_gpt",
                                   "ext2",
                                   "search",
                                   "search_fs_uuid",
                                   "configfile",
                                   "linux",
                                   "boot",
                                   "serial",
                                   "terminal",
                                   "normal",
                                   "echo",
                                   "ls",
                                   "cat"};
  argv.insert(argv.end(), platform_modules.begin(), platform_modules.end());
  context.run(argv);
  return core;
}

void put_little_endian(std::string& data, std::size_t offset, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) {
    data.at(offset + i) = static_cast<char>((value >> (8 * i)) & 0xff);
  }
}

/// Writes GRUB's first sector and core image into the disk, as grub-bios-setup does for a GPT disk with a BIOS boot
/// partition (field offsets: include/grub/i386/pc/boot.h in GRUB's source).
void write_bios_boot_loader(const fs::path& disk, const fs::path& boot_image, const fs::path& core_image) {
  constexpr std::size_t kBootImageCode = 440;  // what follows in the first sector is the protective partition table
  constexpr std::size_t kBootDriveCheck = 0x66;
  constexpr std::size_t kBootKernelSector = 0x5c;
  constexpr std::size_t kCoreBlockList = kSector - 12;
  constexpr std::uint64_t kCoreSector = kBiosBootStart * kMebibyte / kSector;

  std::string boot = read_file(boot_image);
  std::string core = read_file(core_image);
  if (boot.size() != kSector || core.size() <= kSector || core.size() > kBiosBootSize * kMebibyte) {
    throw Error("GRUB's boot.img has " + std::to_string(boot.size()) + " bytes and its core image " +
                std::to_string(core.size()) + "; expected 512, and at most the " + std::to_string(kBiosBootSize) +
                " MiB of the BIOS boot partition");
  }
  put_little_endian(boot, kBootKernelSector, kCoreSector, 8);
  put_little_endian(boot, kBootDriveCheck, 0x9090, 2);  // no-ops: trust the drive number of the BIOS
  put_little_endian(core, kCoreBlockList, kCoreSector + 1, 8);

  const FileDescriptor file = open_file(disk, O_WRONLY);
  if (::pwrite(file.get(), boot.data(), kBootImageCode, 0) != static_cast<ssize_t>(kBootImageCode) ||
      ::pwrite(file.get(), core.data(), core.size(), kCoreSector * kSector) != static_cast<ssize_t>(core.size())) {
    throw_errno("cannot write the boot loader to " + disk.string());
  }
}

void partition(const BuildContext& context, const fs::path& disk, const DiskIds& ids) {
  const auto line = [](std::uint64_t start, std::uint64_t size, std::string_view rest) {
    return "start=" + std::to_string(start) + "MiB, size=" + std::to_string(size) + "MiB, " + std::string(rest) + "\n";
  };
  const fs::path table = context.scratch / "partitions";
  write_file(table,
             "label: gpt\nlabel-id: " + ids.disk + "\n" +
                 line(kBiosBootStart, kBiosBootSize, "type=21686148-6449-6E6F-744E-656564454649, name=bios-boot") +
                 line(kEspStart, kEspSize, "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp") +
                 line(kRootStart, kRootSize, "type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root, uuid=" + ids.root_partition));
  fs::remove(disk);
  write_file(disk, "");
  fs::resize_file(disk, kDiskMebibytes * kMebibyte);
  context.run({"sfdisk", "--quiet", disk.string()}, table);
}

void fill_root(const BuildContext& context, const fs::path& disk, const fs::path& tree, const DiskIds& ids) {
  context.run(
      as_owner(context, {"mkfs.ext4", "-q", "-F", "-L", "root", "-U", ids.root_filesystem, "-m", "0",
                         // All tables are written now, so that no guest does it in the background.
                         "-E", "offset=" + mebibyte_offset(kRootStart) + ",lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                         "-d", tree.string(), disk.string(), std::to_string(kRootSize) + "M"}));
}

void fill_esp(const BuildContext& context, const fs::path& disk, const fs::path& efi_core) {
  const std::string image = disk.string() + "@@" + mebibyte_offset(kEspStart);
  context.run(
      {"mformat", "-i", image, "-T", std::to_string(kEspSize * kMebibyte / kSector), "-h", "64", "-s", "32", "-v", "ESP"});
  context.run({"mmd", "-i", image, "::/EFI", "::/EFI/BOOT"});
  context.run({"mcopy", "-i", image, efi_core.string(), "::/EFI/BOOT/BOOTX64.EFI"});
}

/// The newest file in `folder` whose name starts with `prefix`.
fs::path find_boot_file(const fs::path& folder, std::string_view prefix) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with(prefix)) {
      found.push_back(entry.path());
    }
  }
  if (found.empty()) {
    throw Error("no file " + (folder / prefix).string() + "* after the installation of Debian's kernel");
  }
  return *std::max_element(found.begin(), found.end());
}

}  // namespace

void build_debian_12(const BuildContext& context) {
  constexpr std::array<std::string_view, 7> kPrograms = {"mmdebstrap", "tar",   "mkfs.ext4", "sfdisk",
                                                         "mformat",    "mcopy", "qemu-img"};
  context.require_programs(kPrograms);
  if (::geteuid() != 0) {
    constexpr std::array<std::string_view, 2> kProgramsWithoutRoot = {"fakeroot", "newuidmap"};
    context.require_programs(kProgramsWithoutRoot);
  }
  const DiskIds ids;
  const fs::path tar = context.scratch / "root.tar";
  const fs::path tree = context.scratch / "root";
  const fs::path grub_tar = context.scratch / "grub.tar";
  const fs::path grub = context.scratch / "grub";
  const fs::path disk = context.scratch / "disk.raw";

  context.step("installing Debian's packages into a tree");
  install_packages(context, tar);
  fs::create_directory(tree);
  // The tree's device nodes are for mmdebstrap; a guest's kernel makes its own.
  context.run(as_owner(context, {"tar", "-C", tree.string(), "--exclude=./dev/*", "--numeric-owner", "-p", "-xf", tar.string()}));
  fs::remove(tar);
  configure(context, tree, ids);

  context.step("fetching the boot loader");
  context.run({"mmdebstrap", "--variant=extract", "--format=tar", "--include=" + std::string(kBootLoaderPackages), "bookworm",
               grub_tar.string()});
  fs::create_directory(grub);
  context.run({"tar", "-C", grub.string(), "--exclude=./dev/*", "--no-same-owner", "-xf", grub_tar.string()});

  context.step("making the disk");
  partition(context, disk, ids);
  fill_root(context, disk, tree, ids);
  fill_esp(context, disk, make_grub_core(context, grub, ids, "x86_64-efi", {"efi_gop"}));
  write_bios_boot_loader(disk, grub / "usr/lib/grub/i386-pc/boot.img",
                         make_grub_core(context, grub, ids, "i386-pc", {"biosdisk"}));
  // Not compressed: clones read their base at every boot, and the file is sparse already.
  context.run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk.string(), (context.staging / "disk.qcow2").string()});
  fs::copy_file(find_boot_file(tree / "boot", "vmlinuz-"), context.staging / "vmlinuz");
  fs::copy_file(find_boot_file(tree / "boot", "initrd.img-"), context.staging / "initrd.img");

  BuiltImage& image = *context.image;
  image.description = "Debian 12 (bookworm), generic kernel, systemd, OpenSSH, cloud-init";
  image.architecture = Architecture::X86_64;
  image.disk = "disk.qcow2";
  image.disk_format = DiskFormat::Qcow2;
  image.kernel = "vmlinuz";
  image.initramfs = "initrd.img";
  image.root_device = "PARTUUID=" + ids.root_partition;
  // Until the driver of some other console is loaded there is the screen, so that programs find one.
  image.command_line = "root=" + image.root_device + " ro console=tty0 console=ttyS0";
  image.default_user = "root";
  image.boot_modes = {BootMode::Direct, BootMode::Bios, BootMode::Uefi};
  image.features = {"cloud-init", "systemd", "openssh", "sftp", "apt", "python3", "sudo", "vmgenid", "modules"};
}

}  // namespace vmtest
