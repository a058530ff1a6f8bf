#include "vmtest/image_tools.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <string_view>

#include "build/ext4_script.h"
#include "build/recipe.h"
#include "guest_programs.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// For programs that take milliseconds, on a busy host.
constexpr std::chrono::seconds kTrialTime{20};
constexpr std::uintmax_t kMebibyte = 1U << 20;

/// A Debian package, what recipes use of it, and how that is tried in an empty folder.
struct PackageTrial {
  std::string_view package;
  std::array<std::string_view, 4> programs;
  /// Throws what is wrong.
  void (*run)(const BuildContext&);
  /// When it is installed and does not serve.
  std::string_view mend;
  bool root_needs_it = true;
};

fs::path make_tree(const BuildContext& context) {
  const fs::path tree = context.scratch / "tree";
  fs::create_directories(tree / "etc");
  write_file(tree / "etc/hostname", "trial\n");
  return tree;
}

fs::path make_disk(const BuildContext& context) {
  const fs::path disk = context.scratch / "disk.raw";
  write_file(disk, "");
  fs::resize_file(disk, 4 * kMebibyte);
  return disk;
}

void try_apt(const BuildContext& context) {
  context.run({"apt-get", "download", "--print-uris", "-q", "linux-image-amd64", "busybox-static"});
}

void try_dpkg(const BuildContext& context) {
  const fs::path tree = make_tree(context);
  fs::create_directory(tree / "DEBIAN");
  fs::permissions(tree / "DEBIAN", fs::perms(0755));  // whatever the umask is
  write_file(tree / "DEBIAN/control", "Package: trial\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: none\n");
  const std::string package = (context.scratch / "trial.deb").string();
  context.run({"dpkg-deb", "--build", tree.string(), package});
  context.run({"dpkg-deb", "-x", package, (context.scratch / "unpacked").string()});
}

void try_tar(const BuildContext& context) {
  const fs::path tree = make_tree(context);
  const std::string archive = (context.scratch / "trial.tar").string();
  context.run({"tar", "-C", tree.string(), "-cf", archive, "."});
  context.run({"tar", "-C", tree.string(), "--exclude=./dev/*", "--numeric-owner", "-p", "-xf", archive});
}

void try_e2fsprogs(const BuildContext& context) {
  const fs::path tree = make_tree(context);
  context.run({"mkfs.ext4", "-q", "-F", "-d", tree.string(), (context.scratch / "from-tree").string(), "4M"});
  Ext4Script script;
  script.file("/etc/hostname", tree / "etc/hostname", 0644);
  const char* id = "7d1b3c3a-6a0e-4c4e-9d0b-3f6f5a2c1e01";
  script.build(context, {.label = "trial", .uuid = id, .hash_seed = id, .size = "64M"}, context.scratch / "from-script");
}

void try_fdisk(const BuildContext& context) {
  const fs::path table = context.scratch / "partitions";
  write_file(table, "label: gpt\nstart=1MiB, size=1MiB, name=trial\n");
  context.run({"sfdisk", "--quiet", make_disk(context).string()}, table);
}

void try_mtools(const BuildContext& context) {
  const std::string image = make_disk(context).string() + "@@" + std::to_string(kMebibyte);
  context.run({"mformat", "-i", image, "-T", std::to_string(2 * kMebibyte / 512), "-h", "64", "-s", "32", "-v", "TRIAL"});
  context.run({"mmd", "-i", image, "::/EFI"});
  context.run({"mcopy", "-i", image, (make_tree(context) / "etc/hostname").string(), "::/EFI/TRIAL"});
}

void try_qemu_img(const BuildContext& context) {
  const std::string image = (context.scratch / "disk.qcow2").string();
  context.run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", make_disk(context).string(), image});
}

void try_mmdebstrap(const BuildContext& context) {
  // Without root it works in a user namespace, and has a word to try just that.
  if (::geteuid() == 0) context.run({"mmdebstrap", "--version"});
  else context.run({"mmdebstrap", "--unshare-helper", "true"});
}

void try_fakeroot(const BuildContext& context) {
  context.run({"fakeroot", "-s", (context.scratch / "fakeroot.state").string(), "--", "true"});
}

constexpr std::array kTrials{
    PackageTrial{"apt", {"apt-get", "apt-cache"}, try_apt, "apt-get update"},
    PackageTrial{"dpkg", {"dpkg-deb"}, try_dpkg, "apt-get install --reinstall dpkg"},
    PackageTrial{"tar", {"tar"}, try_tar, "apt-get install --reinstall tar"},
    PackageTrial{
        "e2fsprogs", {"mkfs.ext4", "debugfs", "dumpe2fs", "e2fsck"}, try_e2fsprogs, "apt-get install --reinstall e2fsprogs"},
    PackageTrial{"fdisk", {"sfdisk"}, try_fdisk, "apt-get install --reinstall fdisk"},
    PackageTrial{"mtools", {"mformat", "mmd", "mcopy"}, try_mtools, "apt-get install --reinstall mtools"},
    PackageTrial{"qemu-utils", {"qemu-img"}, try_qemu_img, "apt-get install --reinstall qemu-utils"},
    PackageTrial{"uidmap", {"newuidmap", "newgidmap"}, nullptr, "", false},
    PackageTrial{"fakeroot", {"fakeroot"}, try_fakeroot, "apt-get install --reinstall fakeroot", false},
    PackageTrial{
        "mmdebstrap",
        {"mmdebstrap"},
        try_mmdebstrap,
        "apt-get install --reinstall mmdebstrap; without root it needs a range of this user's in /etc/subuid and /etc/subgid"},
};

/// What is wrong with a package; empty when it serves.
std::vector<ImageToolProblem> try_package(const PackageTrial& trial) {
  std::string missing;
  for (const std::string_view program : trial.programs) {
    if (!program.empty() && !find_program(std::string(program))) missing += (missing.empty() ? "" : ", ") + std::string(program);
  }
  if (!missing.empty()) return {{"not installed: " + missing, "apt-get install " + std::string(trial.package)}};
  if (trial.run == nullptr) return {};
  const TemporaryDirectory folder("vmtest-trial-");
  BuildContext context;
  context.scratch = folder.path();
  context.time_limit = kTrialTime;
  try {
    trial.run(context);
    return {};
  } catch (const std::exception& error) {
    return {{error.what(), std::string(trial.mend)}};
  }
}

}  // namespace

std::string package_of(std::string_view program) {
  for (const PackageTrial& trial : kTrials) {
    if (std::find(trial.programs.begin(), trial.programs.end(), program) != trial.programs.end())
      return std::string(trial.package);
  }
  return std::string(program);
}

std::vector<ImageToolProblem> try_image_tools() {
  std::vector<ImageToolProblem> problems;
  for (const PackageTrial& trial : kTrials) {
    if (!trial.root_needs_it && ::geteuid() == 0) continue;
    for (ImageToolProblem& problem : try_package(trial)) problems.push_back(std::move(problem));
  }
  try {
    (void)find_guest_programs();
  } catch (const std::exception& error) {
    problems.push_back({error.what(), "install vmtest whole, or set VMTEST_GUEST_INIT to the guest-init of its build"});
  }
  return problems;
}

}  // namespace vmtest
