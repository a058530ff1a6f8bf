#include "run_plan.h"

#include <gtest/gtest.h>

#include "vm.h"
#include "vmtest/error.h"

namespace vmtest::propolis {
namespace {

VmHandle handle() {
  VmHandle vm;
  vm.id = "propolis-6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11";
  vm.name = "t1";
  vm.work_dir = "/vms/t1";
  vm.runtime_dir = "/run/1";
  return vm;
}

const LinkPlan kLink{.name = "vmtest0", .mac_address = "52:54:00:12:34:56", .host_address = "198.18.0.1/30"};

TEST(PropolisRunPlan, RoundTripThroughJson) {
  RunPlan plan = run_plan(handle(), {.program = "/bin/server", .bootrom = "/rom"}, {kLink}, "1");
  plan.patience = std::chrono::seconds(3);
  plan.startup_script = true;
  EXPECT_EQ(to_json(parse_run_plan(to_json(plan))), to_json(plan));
  EXPECT_EQ(parse_run_plan(to_json(plan)).steps, tap_steps(kLink));
}

TEST(PropolisRunPlan, LinkHasANameThatBothSystemsTake) {
  EXPECT_EQ(link_name(handle()), "vmtest6f0c1d0e0");
  EXPECT_LT(link_name(handle()).size(), 16U);
}

TEST(PropolisRunPlan, GarbageIsAnError) {
  EXPECT_THROW((void)parse_run_plan("no JSON"), Error);
  EXPECT_THROW((void)parse_run_plan("{}"), Error);
  EXPECT_THROW((void)parse_running_server("[]"), Error);
}

TEST(PropolisRunPlan, ServerOfOursHasAProgramAndALog) {
  const RunPlan plan = run_plan(handle(), {.program = "/bin/server", .bootrom = "/rom"}, {}, "1");
  EXPECT_EQ(plan.program, "/bin/server");
  EXPECT_EQ(plan.bootrom, "/rom");
  EXPECT_EQ(plan.server_log, "/vms/t1/propolis-server.log");
  EXPECT_EQ(plan.console_socket, "/run/1/console.sock");
  EXPECT_TRUE(plan.steps.empty());
}

TEST(PropolisRunPlan, RunningServerHasAnAddressAlone) {
  const RunPlan plan =
      run_plan(handle(), {.source = Settings::Source::Running, .host = "10.0.0.7", .port = 12400, .link = "igb0"}, {kLink}, "1");
  EXPECT_EQ(plan.program, "");
  EXPECT_EQ(plan.host, "10.0.0.7");
  EXPECT_EQ(plan.port, 12400);
  EXPECT_EQ(plan.steps.front().run.front(), "dladm");
}

TEST(PropolisRunPlan, ZoneComesAfterItsVnic) {
  const RunPlan plan = run_plan(handle(),
                                {.source = Settings::Source::Zone,
                                 .host = "10.0.0.7",
                                 .port = 12400,
                                 .brand = "b",
                                 .snapshot = "rpool/images/tiny@latest",
                                 .dataset = "rpool/vms",
                                 .link = "igb0"},
                                {kLink}, "1");
  std::vector<std::string> programs;
  for (const Step& step : plan.steps) programs.push_back(step.run.front());
  EXPECT_EQ(programs, (std::vector<std::string>{"dladm", "ipadm", "zfs", "zonecfg", "zoneadm", "zoneadm"}));
  EXPECT_EQ(plan.steps[2].run.back(), "rpool/vms/vmtest-6f0c1d0e");
}

}  // namespace
}  // namespace vmtest::propolis
