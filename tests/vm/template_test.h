#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fork_test.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/template_store.h"

namespace vmtest {

/// Forks in a home with templates of its own: nothing of other tests helps or harms.
class TemplateTest : public ForkTest {
 protected:
  void SetUp() override {
    ForkTest::SetUp();
    if (IsSkipped()) return;
    const std::filesystem::path images = data_dir() / "images";
    home_.emplace("VMTEST_HOME", (folder_.path() / "home").string());
    std::filesystem::create_directories(data_dir());
    std::filesystem::create_directory_symlink(images, data_dir() / "images");
  }
  [[nodiscard]] static std::vector<TemplateInfo> templates() { return TemplateStore().list(); }
  /// Gives a template a state that passes every check but QEMU's.
  static void spoil(const TemplateInfo& tmpl) {
    const std::filesystem::path staging = TemplateStore().make_staging("other");
    for (const char* name : {"memory", "root.qcow2", "overlay-root.qcow2", "seed.iso", "id_ed25519", "host_key.pub"})
      std::filesystem::copy_file(tmpl.folder / name, staging / name);
    write_file(staging / "state", "no state of QEMU's", 0600);
    ASSERT_TRUE(TemplateStore().remove(tmpl.key));
    TemplateStore().publish(staging, tmpl);
  }

  TemporaryDirectory folder_;
  std::optional<Variable> home_;
};

}  // namespace vmtest
