#include <array>
#include <fstream>
#include <iterator>
#include <set>

#include "build/ext4_script.h"
#include "build/initramfs_writer.h"
#include "build/kernel_image.h"
#include "build/kernel_modules.h"
#include "build/recipe.h"
#include "build/tiny_files.h"
#include "vmtest/error.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

constexpr std::array kPackages{"busybox-static", "dropbear-bin", "libc6",    "libcrypt1",
                               "libtomcrypt1",   "libtommath1",  "libgmp10", "zlib1g"};
// What dropbear and its tools link against, and the loader.
constexpr std::array kLibraries{"ld-linux-x86-64.so.2", "libc.so.6",       "libcrypt.so.1", "libgmp.so.10",
                                "libtomcrypt.so.1",     "libtommath.so.1", "libz.so.1"};
constexpr std::array<std::string_view, 5> kPrograms{"apt-get", "dpkg-deb", "mkfs.ext4", "debugfs", "qemu-img"};

// Fixed, so that the same packages give the same bytes.
constexpr const char* kRootLabel = "vmtest-root";
constexpr const char* kRootUuid = "7d1b3c3a-6a0e-4c4e-9d0b-3f6f5a2c1e01";
constexpr const char* kHashSeed = "7d1b3c3a-6a0e-4c4e-9d0b-3f6f5a2c1e02";
constexpr const char* kDiskSize = "2G";

// No self-tests of ciphers nobody uses at boot, no kernel messages below errors on the (slow) serial line; a panic ends the
// machine's wait at once.
constexpr const char* kCommandLine = "console=ttyS0 root=LABEL=vmtest-root quiet cryptomgr.notests panic=-1";

std::string read_whole(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw_errno("cannot read " + path.string());
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_whole(const fs::path& path, std::string_view content) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size())).flush();
  if (!file) {
    throw_errno("cannot write " + path.string());
  }
}

/// The package that linux-image-amd64 stands for now.
std::string kernel_package(const BuildContext& context) {
  const std::string shown = context.run({"apt-cache", "show", "--no-all-versions", "linux-image-amd64"});
  constexpr std::string_view kStart = "linux-image-";
  const std::size_t depends = shown.find("\nDepends: ");
  const std::size_t start = depends == std::string::npos ? std::string::npos : shown.find(kStart, depends);
  if (start == std::string::npos) {
    throw Error("apt knows no package linux-image-amd64; run apt-get update");
  }
  return shown.substr(start, shown.find_first_of(" ,\n", start) - start);
}

/// Downloads with apt, which checks the archive's signatures, and unpacks into one tree. Nothing is installed.
void fetch_packages(const BuildContext& context, const fs::path& tree) {
  context.step("downloading Debian packages");
  // apt-get download writes to its working directory, which is the scratch folder.
  std::vector<std::string> argv = {"apt-get", "download", "-q", kernel_package(context)};
  argv.insert(argv.end(), kPackages.begin(), kPackages.end());
  context.run(argv);
  context.step("unpacking them");
  for (const fs::directory_entry& package : fs::directory_iterator(context.scratch)) {
    if (package.path().extension() == ".deb") {
      context.run({"dpkg-deb", "-x", package.path().string(), tree.string()});
    }
  }
}

fs::path only_entry(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    return entry.path();
  }
  throw Error("nothing in " + folder.string());
}

void add_programs(const BuildContext& context, const fs::path& tree, Ext4Script& disk) {
  disk.file("/usr/bin/busybox", tree / "bin/busybox", 0755);
  const std::string applets = context.run({(tree / "bin/busybox").string(), "--list-full"});
  std::set<std::string> links;
  for (std::size_t start = 0; start < applets.size();) {
    const std::size_t end = std::min(applets.find('\n', start), applets.size());
    const std::string applet = applets.substr(start, end - start);
    const std::string_view name = std::string_view(applet).substr(applet.rfind('/') + 1);
    const bool system = applet.find("sbin/") != std::string::npos;
    // Ours is PID 1; dpkg and rpm would only mislead.
    static const std::set<std::string_view> left_out = {"busybox", "init", "linuxrc", "dpkg", "dpkg-deb", "rpm", "run-init"};
    if (!name.empty() && left_out.count(name) == 0) {
      links.insert((system ? "/usr/sbin/" : "/usr/bin/") + std::string(name));
    }
    start = end + 1;
  }
  for (const std::string& link : links) {
    disk.link(link, link.rfind("/usr/bin/", 0) == 0 ? "busybox" : "../bin/busybox");
  }
  disk.file("/usr/bin/dbclient", tree / "usr/bin/dbclient", 0755);
  disk.file("/usr/bin/dropbearkey", tree / "usr/bin/dropbearkey", 0755);
  disk.file("/usr/bin/dropbearconvert", tree / "usr/bin/dropbearconvert", 0755);
  disk.file("/usr/sbin/dropbear", tree / "usr/sbin/dropbear", 0755);
  disk.link("/usr/bin/ssh", "dbclient");
  for (const std::string library : kLibraries) {
    const fs::path old_place = tree / "lib/x86_64-linux-gnu" / library;
    const fs::path path = fs::exists(old_place) ? old_place : tree / "usr/lib/x86_64-linux-gnu" / library;
    disk.file("/usr/lib/x86_64-linux-gnu/" + library, fs::canonical(path), 0755);
  }
  disk.link("/usr/lib64/ld-linux-x86-64.so.2", "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
}

void add_layout(Ext4Script& disk) {
  for (const char* path : {"/dev", "/home", "/mnt", "/proc", "/run", "/srv", "/sys", "/usr/bin", "/usr/lib", "/usr/lib64",
                           "/usr/sbin", "/usr/local/bin", "/var/lib/vmtest", "/var/log", "/etc/dropbear"}) {
    disk.folder(path);
  }
  disk.folder("/root", 0700);
  disk.folder("/tmp", 01777);
  disk.folder("/var/tmp", 01777);
  for (const char* name : {"bin", "lib", "lib64", "sbin"}) {
    disk.link(std::string("/") + name, std::string("usr/") + name);
  }
  disk.link("/var/run", "../run");
}

/// The modules in `folder` that tests may load, with modprobe's tables.
void add_modules(const BuildContext& context, const fs::path& folder, Ext4Script& disk) {
  const KernelModules modules = select_modules(folder, kTinyModules);
  const std::string target = "/usr/lib/modules/" + folder.filename().string() + "/";
  const fs::path tables = context.scratch / "modules";
  write_whole(tables / "modules.dep", modules.dependencies);
  write_whole(tables / "modules.alias", modules.aliases);
  write_whole(tables / "modules.symbols", "");
  for (const char* table : {"modules.dep", "modules.alias", "modules.symbols"}) {
    disk.file(target + table, tables / table, 0644);
  }
  disk.file(target + "modules.builtin", folder / "modules.builtin", 0644);
  for (const std::string& path : modules.paths) {
    disk.file(target + path, folder / path, 0644);
  }
}

void build_disk(const BuildContext& context, const fs::path& tree, const fs::path& modules) {
  context.step("writing the disk");
  Ext4Script disk;
  add_layout(disk);
  add_programs(context, tree, disk);
  for (const TinyFile& file : kTinyFiles) {
    const fs::path source = context.scratch / "files" / file.path.substr(1);
    write_whole(source, file.content);
    disk.file(std::string(file.path), source, file.mode);
  }
  add_modules(context, modules, disk);
  const fs::path raw = context.scratch / "disk.raw";
  disk.build(context, {.label = kRootLabel, .uuid = kRootUuid, .hash_seed = kHashSeed, .size = kDiskSize}, raw);
  context.run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw.string(), (context.staging / "disk.qcow2").string()});
}

void build_initramfs(const BuildContext& context, const fs::path& modules) {
  context.step("writing the initramfs");
  const KernelModules early = select_modules(modules, kTinyEarlyModules);
  InitramfsWriter initramfs(context.staging / "initrd.img");
  std::set<std::string> folders = {"dev", "lib", "lib/modules", "lib/modules/early"};
  for (const std::string& path : early.paths) {
    for (fs::path parent = fs::path("lib/modules/early") / fs::path(path).parent_path(); !parent.empty();
         parent = parent.parent_path()) {
      folders.insert(parent.string());
    }
  }
  for (const std::string& folder : folders) {
    initramfs.folder(folder);
  }
  initramfs.device("dev/console", 5, 1);
  initramfs.file("init", read_whole(context.guest_programs / "guest-init"), 0755);
  initramfs.file("lib/modules/early/modules.dep", early.dependencies, 0644);
  initramfs.file("lib/modules/early/modules.alias", early.aliases, 0644);
  for (const std::string& path : early.paths) {
    initramfs.file("lib/modules/early/" + path, read_whole(modules / path), 0644);
  }
  initramfs.finish();
}

}  // namespace

void build_tiny(const BuildContext& context) {
  context.require_programs(kPrograms);
  const fs::path tree = context.scratch / "tree";
  fetch_packages(context, tree);
  const fs::path modules = only_entry(tree / "lib/modules");
  const std::string release = modules.filename().string();

  context.step("unpacking the kernel");
  const std::string kernel = read_whole(tree / "boot" / ("vmlinuz-" + release));
  write_whole(context.staging / "vmlinux", extract_vmlinux(kernel));
  write_whole(context.staging / "vmlinuz", kernel);
  build_initramfs(context, modules);
  build_disk(context, tree, modules);

  BuiltImage& image = *context.image;
  image.description = "Debian kernel " + release + ", busybox, dropbear";
  image.architecture = Architecture::X86_64;
  image.disk = "disk.qcow2";
  image.disk_format = DiskFormat::Qcow2;
  image.kernel = "vmlinux";
  image.initramfs = "initrd.img";
  image.efi_kernel = "vmlinuz";
  image.command_line = kCommandLine;
  image.root_device = std::string("LABEL=") + kRootLabel;
  image.default_user = "root";
  image.boot_modes = {BootMode::Direct};
  image.features = {"dropbear", "busybox", "vmgenid", "pvh"};
}

}  // namespace vmtest
