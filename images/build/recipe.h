#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/types.h"

namespace vmtest {

/// What a recipe says about the image it made. File names are relative to the staging folder. Digest, size and build
/// time are the store's business: it takes them from the finished files.
struct BuiltImage {
  /// One line for `vmtest image ls`.
  std::string description = {};
  Architecture architecture = Architecture::X86_64;
  /// File names in the staging folder; kernel and initramfs are empty when the image has none.
  std::string disk = "disk.qcow2";
  DiskFormat disk_format = DiskFormat::Qcow2;
  std::string kernel = {};
  std::string initramfs = {};
  std::string efi_kernel = {};
  /// Kernel command line for a direct boot, `root=` and `console=` included.
  std::string command_line = {};
  /// What `root=` names, in the kernel's words ("PARTUUID=..."); empty when the root is the initramfs.
  std::string root_device = {};
  /// The account that tests log in with.
  std::string default_user = "root";
  /// Ways it starts, the preferred one first.
  std::vector<BootMode> boot_modes = {};
  /// What a test may count on, in short lower-case words: "cloud-init", "systemd", "sftp", "apt", "dropbear", "vmgenid".
  std::vector<std::string> features = {};
};

/// What a recipe gets: folders, a way to report, and the description to fill. A plain value that borrows; it lives for
/// one build and is used by one thread.
struct BuildContext {
  /// Where the finished files go (`disk.qcow2`, `vmlinuz`, `initrd.img`). Empty at the start and invisible to others
  /// until the store publishes it.
  std::filesystem::path staging = {};
  /// Empty folder for everything else, on the same file system; the store removes it afterwards.
  std::filesystem::path scratch = {};
  /// File that commands and their output are appended to; kept when a build fails. Empty for none.
  std::filesystem::path log = {};
  /// Longest time for one program.
  std::chrono::seconds time_limit = std::chrono::minutes(15);
  /// Static programs of ours that go into guests (`guest-init`), as the build left them. Empty when a recipe needs none.
  std::filesystem::path guest_programs = {};
  /// Told what is done now, one short line at a time ("installing Debian packages"). May be empty.
  std::function<void(std::string_view)> progress = {};
  /// Becomes readable when the build is to be called off; -1 for never.
  int interrupt = -1;
  /// Filled by the recipe. Never null during a build.
  BuiltImage* image = nullptr;

  /// Throws Error when the build is called off.
  void check_interrupt() const;
  /// Reports one step to `progress` and to the log. Throws Error when the build is called off.
  void step(std::string_view what) const;
  /// Runs a program in the scratch folder that must succeed, and returns what it printed on standard output. argv only, no
  /// shell; all it prints goes to the log as well. `standard_input` is a file to read from, /dev/null when empty. Throws Error
  /// with the command and the end of its output, Timeout when it takes longer than `time_limit`; Error when the build is called
  /// off. The program is killed then, and all it left in its process group.
  std::string run(const std::vector<std::string>& argv, const std::filesystem::path& standard_input = {}) const;
  /// Throws Unsupported that names the Debian packages to install when one of `programs` is not in PATH.
  void require_programs(std::span<const std::string_view> programs) const;
};

/// A row of the table of images that `vmtest image build` knows.
struct Recipe {
  std::string_view name;
  Architecture architecture;
  std::string_view description;
  /// Raised by whoever changes what a recipe makes: an image built by an older version counts as outdated.
  int version;
  void (*build)(const BuildContext&);
};

/// All recipes, `tiny` first.
[[nodiscard]] std::span<const Recipe> recipes();
/// The recipe of that name and architecture, or null.
[[nodiscard]] const Recipe* find_recipe(std::string_view name, Architecture architecture);

/// The Debian package that brings a program; its own name when no recipe uses it.
[[nodiscard]] std::string package_of(std::string_view program);

/// Debian's generic kernel, busybox, dropbear and a static PID 1 of ours in an initramfs, with a small disk.
void build_tiny(const BuildContext& context);
/// A real Debian 12 with systemd, OpenSSH and the distribution's cloud-init on a bootable disk.
void build_debian_12(const BuildContext& context);

}  // namespace vmtest
