// The guest's serial port as the supervisor relays it: a log, and a socket for a person. A Python program is the hypervisor.

#include <gtest/gtest.h>

#include <string>

#include "supervisor_test_support.h"

namespace vmtest {
namespace {

/// Serves serial.sock as Cloud Hypervisor does: one client, whom the next one replaces. `serve(client)` is what it does then.
SupervisedProcess hypervisor(const fs::path& directory, const std::string& serve, const std::string& name = "hypervisor") {
  const std::string program =
      "import os, socket, sys, time\n"
      "s = socket.socket(socket.AF_UNIX)\n"
      "s.bind('serial.sock')\n"
      "s.listen(8)\n" +
      serve;
  return {.name = name,
          .argv = {"/usr/bin/python3", "-c", program},
          .log_file = name + ".log",
          .directory = directory,
          .serial = "serial.sock"};
}

class SupervisorConsoleTest : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    if (::access("/usr/bin/python3", X_OK) != 0) GTEST_SKIP() << "needs /usr/bin/python3";
    vm_ = start();
  }
  [[nodiscard]] fs::path folder(const std::string& name) const {
    fs::create_directory(folder_.path() / name);
    return folder_.path() / name;
  }
  [[nodiscard]] std::string log() const {
    return fs::exists(work_dir() / "console.log") ? read_file(work_dir() / "console.log") : "";
  }
  [[nodiscard]] FileDescriptor person() const {
    (void)wait_until([&] { return fs::exists(runtime_dir() / "console.sock"); }, soon());
    return connect_unix(runtime_dir() / "console.sock");
  }
  /// What a person sees until that is in it, or the connection's end.
  static std::string seen_by(const FileDescriptor& person, const std::string& wanted) {
    std::string text;
    std::vector<FileDescriptor> none;
    while (text.find(wanted) == std::string::npos && wait_readable(person.get(), soon()) &&
           receive_some(person.get(), text, none)) {
    }
    return text;
  }

  std::shared_ptr<SupervisorConnection> vm_;
};

TEST_F(SupervisorConsoleTest, AllThatTheGuestSaysIsInTheLogWhenItsEndIsTold) {
  (void)vm_->spawn(hypervisor(folder("a"), "c, _ = s.accept()\nc.sendall(b'x' * 300000 + b'last')\n"));
  ASSERT_TRUE(vm_->wait_exit("hypervisor", 20s));
  EXPECT_EQ(log(), std::string(300000, 'x') + "last");
  EXPECT_FALSE(fs::exists(runtime_dir() / "console.sock"));
}

TEST_F(SupervisorConsoleTest, WhatTheGuestSaidLastIsNotLostWithItsHypervisor) {
  const fs::path directory = folder("a");
  const pid_t pid = vm_->spawn(hypervisor(directory,
                                          "c, _ = s.accept()\n"
                                          "while not os.path.exists('go'): time.sleep(0.01)\n"
                                          "c.sendall(b'x' * 150000 + b'last')\n"
                                          "os._exit(0)\n"));
  ASSERT_TRUE(wait_until([&] { return vm_->status().consoles.contains("hypervisor"); }, soon()));
  // It says more than is read at once, and has ended by the time that anything is read.
  ::kill(vm_->pid(), SIGSTOP);
  write_file(directory / "go", "");
  const bool ended = wait_until([&] { return is_gone(pid); }, soon());
  ::kill(vm_->pid(), SIGCONT);
  ASSERT_TRUE(ended);
  ASSERT_TRUE(vm_->wait_exit("hypervisor", 20s));
  EXPECT_EQ(log(), std::string(150000, 'x') + "last");
}

TEST_F(SupervisorConsoleTest, PortThatLetsItGoIsConnectedToAgain) {
  (void)vm_->spawn(hypervisor(folder("a"),
                              "for word in (b'first ', b'second '):\n"
                              "  c, _ = s.accept()\n"
                              "  c.sendall(word)\n"
                              "  c.close()\n"
                              "  os.unlink('serial.sock')\n"
                              "  s.close()\n"
                              "  s = socket.socket(socket.AF_UNIX)\n"
                              "  s.bind('serial.sock')\n"
                              "  s.listen(8)\n"
                              "s.accept()\n"
                              "time.sleep(60)\n"));
  EXPECT_TRUE(wait_until([&] { return log() == "first second "; }, soon())) << log();
  EXPECT_TRUE(wait_until([&] { return vm_->status().consoles.contains("hypervisor"); }, soon()));
}

TEST_F(SupervisorConsoleTest, PersonSeesAndTypesOneAtATimeUntilTheEnd) {
  (void)vm_->spawn(hypervisor(folder("a"), "c, _ = s.accept()\nwhile True: c.sendall(b'<' + c.recv(100) + b'>')\n"));
  FileDescriptor first = person();
  send_message(first.get(), "one");
  EXPECT_EQ(seen_by(first, ">"), "<one>");
  const FileDescriptor second = person();
  send_message(second.get(), "two");
  send_message(first.get(), "again");
  EXPECT_EQ(seen_by(first, ">"), "<again>");
  first.reset();
  EXPECT_EQ(seen_by(second, ">"), "<two>");
  vm_->signal("hypervisor", SIGKILL);
  EXPECT_EQ(seen_by(second, "never"), "");
  EXPECT_EQ(log(), "<one><again><two>");
}

TEST_F(SupervisorConsoleTest, SecondProcessTakesOverTheSameConsole) {
  (void)vm_->spawn(hypervisor(folder("a"), "c, _ = s.accept()\nc.sendall(b'A')\nc.recv(1)\n"));
  const FileDescriptor someone = person();
  EXPECT_TRUE(wait_until([&] { return log() == "A"; }, soon()));
  (void)vm_->spawn(hypervisor(folder("b"), "c, _ = s.accept()\nwhile True: c.sendall(b'B' + c.recv(1))\n", "next"));
  ASSERT_TRUE(wait_until([&] { return vm_->status().consoles.contains("next"); }, soon()));
  vm_->signal("hypervisor", SIGKILL);
  ASSERT_TRUE(vm_->wait_exit("hypervisor", 20s));
  vm_->rename("next", "hypervisor");
  send_message(someone.get(), "x");
  EXPECT_NE(seen_by(someone, "Bx").find("Bx"), std::string::npos);
  EXPECT_EQ(log(), "ABx");
  EXPECT_TRUE(vm_->status().consoles.contains("hypervisor"));
}

TEST_F(SupervisorConsoleTest, PersonWhoDoesNotReadHoldsUpNobody) {
  const FileDescriptor idle = [&] {
    (void)vm_->spawn(hypervisor(folder("a"), "c, _ = s.accept()\nc.recv(1)\nc.sendall(b'y' * 4000000)\n"));
    return person();
  }();
  send_message(idle.get(), "g");
  ASSERT_TRUE(vm_->wait_exit("hypervisor", 20s));
  EXPECT_EQ(log().size(), 4000000U);
}

}  // namespace
}  // namespace vmtest
