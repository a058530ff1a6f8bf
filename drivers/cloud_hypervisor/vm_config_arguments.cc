// The form of a VM's description that the command line takes: options of comma-separated keys and values.

#include <algorithm>
#include <string_view>

#include "vm_config.h"
#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest::cloud_hypervisor {
namespace {

/// What its option parser takes for its own outside of quotes.
constexpr std::string_view kOfTheParser = ",\"[]";

/// Throws Error for what its command line cannot hold in any form.
void require_text(const std::string& value) {
  if (is_utf8(value) && value.find('\0') == std::string::npos) return;
  throw Error("Cloud Hypervisor cannot be given \"" + sanitize_console(value) +
              "\" on its command line, which takes UTF-8 without NUL bytes; rename it");
}

/// A value in the form that its option parser (option_parser/src/lib.rs of the project) gives back as it was: in quotes nothing
/// is the parser's own but a quote, which stands there twice.
std::string quoted(const std::string& value) {
  const auto plain = [](char c) { return c > ' ' && c <= '~' && kOfTheParser.find(c) == std::string_view::npos; };
  if (std::all_of(value.begin(), value.end(), plain)) return value;
  std::string text = "\"";
  for (const char c : value) text += c == '"' ? std::string("\"\"") : std::string(1, c);
  return text + "\"";
}

/// The value of an option, put together key by key.
class Option {
 public:
  Option& set(const std::string& key, const std::string& value) {
    require_text(value);
    if (!value.empty()) text_ += (text_.empty() ? "" : ",") + key + "=" + quoted(value);
    return *this;
  }
  Option& set(const std::string& key, const std::filesystem::path& value) { return set(key, value.string()); }
  Option& set(const std::string& key, std::uint64_t value) { return set(key, std::to_string(value)); }
  Option& set_on(const std::string& key, bool on) { return on ? set(key, std::string("on")) : *this; }

  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void set_bucket(Option& option, const std::string& prefix, const std::optional<TokenBucket>& bucket) {
  if (!bucket) return;
  option.set(prefix + "_size", bucket->size);
  if (bucket->one_time_burst) option.set(prefix + "_one_time_burst", *bucket->one_time_burst);
  option.set(prefix + "_refill_time", bucket->refill_time);
}

std::string value_of(const CpusConfig& cpus) {
  std::string text = Option().set("boot", cpus.boot_vcpus).set("max", cpus.max_vcpus).text();
  if (cpus.topology) {
    const CpuTopology& t = *cpus.topology;
    text += ",topology=" + std::to_string(t.threads_per_core) + ":" + std::to_string(t.cores_per_die) + ":" +
            std::to_string(t.dies_per_package) + ":" + std::to_string(t.packages);
  }
  return text;
}

std::string value_of(const MemoryConfig& memory) {
  Option option;
  option.set("size", memory.size).set_on("shared", memory.shared).set_on("hugepages", memory.hugepages);
  if (memory.hotplug_size) {
    option.set("hotplug_method", std::string(memory.hotplug_method == HotplugMethod::Acpi ? "acpi" : "virtio-mem"));
    option.set("hotplug_size", *memory.hotplug_size);
  }
  return option.text();
}

std::string value_of(const DiskConfig& disk) {
  Option option;
  option.set("path", disk.path).set("image_type", std::string(disk.image_type == ImageType::Raw ? "raw" : "qcow2"));
  option.set_on("readonly", disk.readonly).set_on("direct", disk.direct).set_on("backing_files", disk.backing_files);
  option.set("id", disk.id).set("serial", disk.serial);
  set_bucket(option, "bw", disk.rate_limiter.bandwidth);
  set_bucket(option, "ops", disk.rate_limiter.ops);
  return option.text();
}

std::string value_of(const NetConfig& net) {
  Option option;
  option.set("tap", net.tap).set("ip", net.ip).set("mask", net.mask).set("host_mac", net.host_mac);
  return option.set("mac", net.mac).set("id", net.id).text();
}

std::string value_of(const FsConfig& fs) {
  Option option;
  option.set("tag", fs.tag).set("socket", fs.socket).set("num_queues", fs.num_queues).set("queue_size", fs.queue_size);
  return option.set("id", fs.id).text();
}

std::string value_of(const ConsoleConfig& console) {
  switch (console.mode) {
    case ConsoleConfig::Mode::Off:
      return "off";
    case ConsoleConfig::Mode::Null:
      return "null";
    case ConsoleConfig::Mode::File:
      return Option().set("file", console.path).text();
    case ConsoleConfig::Mode::Socket:
      return Option().set("socket", console.path).text();
  }
  return {};
}

}  // namespace

std::string path_option(const std::filesystem::path& path) { return Option().set("path", path).text(); }

std::vector<std::string> to_arguments(const VmConfig& config) {
  std::vector<std::string> words;
  const auto add = [&words](const std::string& option, const std::string& value) {
    if (value.empty()) return;
    require_text(value);
    if (value.front() == '-') {  // alone it would be taken for an option
      words.push_back(option + "=" + value);
      return;
    }
    words.push_back(option);
    words.push_back(value);
  };
  add("--cpus", value_of(config.cpus));
  add("--memory", value_of(config.memory));
  add("--firmware", config.payload.firmware.string());
  add("--kernel", config.payload.kernel.string());
  add("--initramfs", config.payload.initramfs.string());
  add("--cmdline", config.payload.cmdline);
  for (const DiskConfig& disk : config.disks) add("--disk", value_of(disk));
  for (const NetConfig& net : config.net) add("--net", value_of(net));
  for (const FsConfig& fs : config.fs) add("--fs", value_of(fs));
  if (config.rng_src) add("--rng", Option().set("src", *config.rng_src).text());
  if (config.balloon) {
    add("--balloon", Option().set("size", config.balloon->size).set_on("deflate_on_oom", config.balloon->deflate_on_oom).text());
  }
  add("--serial", value_of(config.serial));
  add("--console", value_of(config.console));
  if (config.vsock) {
    add("--vsock", Option().set("cid", config.vsock->cid).set("socket", config.vsock->socket).set("id", config.vsock->id).text());
  }
  add("--tpm", Option().set("socket", config.tpm_socket).text());
  add("--platform", Option().set("serial_number", config.serial_number).text());
  if (config.watchdog) words.emplace_back("--watchdog");
  if (config.pvpanic) words.emplace_back("--pvpanic");
  return words;
}

}  // namespace vmtest::cloud_hypervisor
