#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli11.h"
#include "exit_codes.h"
#include "interrupt.h"
#include "subcommand.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/image_store.h"

namespace vmtest::cli {
namespace {

using nlohmann::json;

struct ImageOptions {
  std::string name;
  Architecture architecture = host_architecture();
  bool rebuild = false;
  bool verify = false;
  bool as_json = false;
};
using SharedOptions = std::shared_ptr<ImageOptions>;

json to_json(const ImageDetails& details) {
  const Image& image = details.image;
  json modes = json::array();
  for (const BootMode mode : image.boot_modes) modes.push_back(to_string(mode));
  return {{"name", image.name},
          {"description", image.description},
          {"architecture", to_string(image.architecture)},
          {"folder", details.folder.string()},
          {"disk", image.disk.string()},
          {"disk_format", to_string(image.disk_format)},
          {"kernel", image.kernel.string()},
          {"initramfs", image.initramfs.string()},
          {"efi_kernel", image.efi_kernel.string()},
          {"command_line", image.command_line},
          {"default_user", image.default_user},
          {"boot_modes", modes},
          {"features", image.features},
          {"digest", image.digest},
          {"size", details.size},
          {"recipe_version", details.recipe_version},
          {"built_at", details.built_at},
          {"outdated", ImageStore::outdated(details)}};
}

void print_json(const json& value) { write_all(STDOUT_FILENO, value.dump(2) + "\n"); }

double mebibytes(std::uintmax_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

int build(const ImageOptions& options) {
  const auto progress = [](std::string_view what) { fmt::print(stderr, "vmtest image build: {}\n", what); };
  const InterruptGuard interrupts;
  try {
    const ImageDetails details =
        ImageStore().build(options.name, options.architecture,
                           {.rebuild = options.rebuild, .progress = progress, .interrupt = interrupts.descriptor()});
    if (options.as_json) print_json(to_json(details));
    else fmt::print("image \"{}\" is in {} ({:.0f} MiB)\n", details.image.name, details.folder.string(), mebibytes(details.size));
    return kSuccess;
  } catch (const std::exception& error) {
    if (interrupts.signal() == 0) throw;
    fmt::print(stderr, "vmtest image build: {}\n", error.what());
    return kSignalBase + interrupts.signal();
  }
}

int list(const ImageOptions& options) {
  const ImageStore store;
  const auto images = store.list();
  if (options.as_json) {
    json all = json::array();
    for (const ImageDetails& details : images) all.push_back(to_json(details));
    print_json(all);
    return kSuccess;
  }
  fmt::print("{:<20} {:<8} {:>9}  {:<20}  {}\n", "NAME", "ARCH", "SIZE", "BUILT", "DESCRIPTION");
  for (const ImageDetails& details : images) {
    fmt::print("{:<20} {:<8} {:>5.0f} MiB  {:<20}  {}{}\n", details.image.name, to_string(details.image.architecture),
               mebibytes(details.size), details.built_at, details.image.description,
               ImageStore::outdated(details) ? " (of an older recipe: build it anew)" : "");
  }
  for (const ImageRecipe& recipe : ImageStore::recipes()) {
    if (store.find(recipe.name, recipe.architecture)) continue;
    fmt::print("{:<20} {:<8} {:>9}  {:<20}  {}\n", recipe.name, to_string(recipe.architecture), "-", "not built",
               recipe.description);
  }
  return kSuccess;
}

int remove(const ImageOptions& options) {
  if (ImageStore().remove(options.name, options.architecture)) return kSuccess;
  throw Error("there is no image \"" + options.name + "\" (" + std::string(to_string(options.architecture)) + ")");
}

int show(const ImageOptions& options) {
  const auto details = ImageStore().find(options.name, options.architecture);
  if (!details) {
    (void)ImageStore().get(options.name, options.architecture);  // says how to get it
    return kInfrastructure;
  }
  json info = to_json(*details);
  if (options.verify) {
    try {
      verify_image(*details);
      info["verified"] = true;
    } catch (const Error& error) {
      fmt::print(stderr, "vmtest image info: {}\n", error.what());
      info["verified"] = false;
    }
  }
  if (options.as_json) {
    print_json(info);
  } else {
    for (const auto& [key, value] : info.items()) {
      fmt::print("{:<15} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  return info.value("verified", true) ? kSuccess : kFailed;
}

/// Adds `image NAME`'s own subcommand with what all of them have.
CLI::App& add_verb(CLI::App& app, Action& action, const SharedOptions& options, const char* name, const char* summary,
                   int (*run)(const ImageOptions&)) {
  CLI::App& verb = *app.add_subcommand(name, summary);
  verb.final_callback([options, &action, run] { action = [options, run] { return run(*options); }; });
  return verb;
}

void add_name(CLI::App& verb, const SharedOptions& options) {
  verb.add_option("name", options->name, "Name of the image")->required()->type_name("NAME");
  verb.add_option_function<std::string>(
          "--arch",
          [options](const std::string& text) {
            const auto architecture = parse_architecture(text);
            if (!architecture) throw CLI::ValidationError("--arch", "must be x86_64 or aarch64");
            options->architecture = *architecture;
          },
          "Architecture; this host's by default")
      ->type_name("x86_64|aarch64");
}

}  // namespace

void add_image(CLI::App& app, Action& action) {
  const auto options = std::make_shared<ImageOptions>();
  app.require_subcommand(1);
  // The verbs' own help ends with it too.
  app.footer(
      "Exit codes: 0 it is done, 1 (info --verify) a file differs from what was built, 2 a wrong command line, 3 there is no "
      "such\n"
      "image, or it cannot be built, read or removed, 128+N a build was ended by signal N, and left nothing.");
  CLI::App& build_verb =
      add_verb(app, action, options, "build", "Build an image from Debian's packages, unless it is there", build);
  add_name(build_verb, options);
  build_verb.add_flag("--rebuild", options->rebuild, "Build it although it is there");
  build_verb.add_flag("--json", options->as_json, "Print what was built as JSON");
  CLI::App& list_verb = add_verb(app, action, options, "ls", "List images, and those that can be built", list);
  list_verb.add_flag("--json", options->as_json, "Print the built ones as JSON");
  add_name(add_verb(app, action, options, "rm", "Remove an image; its files stay until no running VM uses them", remove),
           options);
  CLI::App& info_verb = add_verb(app, action, options, "info", "Show what an image is", show);
  add_name(info_verb, options);
  info_verb.add_flag("--verify", options->verify, "Check its files against their digests; exit code 1 when one differs");
  info_verb.add_flag("--json", options->as_json, "Print it as JSON");
}

}  // namespace vmtest::cli
