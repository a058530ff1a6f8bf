// What is said on a supervisor's socket, by clients and by supervisors that are none.

#include "supervisor_test_support.h"

namespace vmtest {
namespace {

/// A connection that says what it likes.
class RawConnection {
 public:
  explicit RawConnection(const fs::path& socket) : fd_(connect_unix(socket)) {}
  void send(const std::string& text) {
    try {
      send_message(fd_.get(), text);
    } catch (const std::system_error&) {  // the other end has had enough
    }
  }
  /// Whether the supervisor closes the connection.
  bool is_closed() {
    set_nonblocking(fd_.get());
    return wait_until(
        [this] {
          std::string data;
          std::vector<FileDescriptor> fds;
          return !receive_some(fd_.get(), data, fds);
        },
        soon());
  }
  /// The next answer.
  std::string receive() {
    std::string data;
    std::vector<FileDescriptor> fds;
    while (data.find('\n') == std::string::npos && wait_readable(fd_.get(), soon()) && receive_some(fd_.get(), data, fds)) {
    }
    return data;
  }
  [[nodiscard]] int get() const { return fd_.get(); }

 private:
  FileDescriptor fd_;
};

TEST_F(SupervisorTest, GarbageEndsOnlyItsConnection) {
  const auto owner = start();
  RawConnection client(socket());
  client.send("\x01\x02 no JSON\n");
  EXPECT_TRUE(client.is_closed());
  EXPECT_TRUE(owner->status().owned);
}

TEST_F(SupervisorTest, OverlongLineEndsOnlyItsConnection) {
  const auto owner = start();
  RawConnection client(socket());
  client.send(std::string(3 << 20, 'x'));
  EXPECT_TRUE(client.is_closed());
  EXPECT_TRUE(owner->status().owned);
}

TEST_F(SupervisorTest, WrongRequestsGetAReason) {
  const auto owner = start();
  RawConnection client(socket());
  client.send("{\"op\":\"dance\"}\n");
  EXPECT_NE(client.receive().find("unknown request"), std::string::npos);
  client.send("[1, 2]\n");
  EXPECT_NE(client.receive().find("\"ok\":false"), std::string::npos);
  client.send("{\"op\":\"hold\",\"name\":\"x\"}\n");
  EXPECT_NE(client.receive().find("no descriptor came with the request"), std::string::npos);
  client.send("{\"op\":\"spawn\",\"name\":\"x\",\"argv\":7}\n");
  EXPECT_NE(client.receive().find("\"ok\":false"), std::string::npos);
}

TEST_F(SupervisorTest, RequestsMayArriveInPieces) {
  const auto owner = start();
  RawConnection client(socket());
  client.send("{\"op\":");
  EXPECT_TRUE(owner->status().owned);
  client.send("\"status\"}\n{\"op\":\"status\"}\n");
  EXPECT_NE(client.receive().find("\"ok\":true"), std::string::npos);
}

TEST_F(SupervisorTest, ClientThatDoesNotReadHoldsUpNobody) {
  const auto owner = start();
  RawConnection client(socket());
  set_nonblocking(client.get());
  std::string requests;
  for (int i = 0; i < 2000; ++i) requests += "{\"op\":\"status\"}\n";
  for (int i = 0; i < 20; ++i) client.send(requests);
  EXPECT_TRUE(owner->status().owned);
  owner->end();
  EXPECT_TRUE(nothing_is_left());
}

/// A supervisor that answers what the test wants.
class OtherSupervisorTest : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    if (const char* value = std::getenv("VMTEST_SUPERVISOR")) before_ = value;
  }
  void TearDown() override {
    if (before_.empty()) ::unsetenv("VMTEST_SUPERVISOR");
    else ::setenv("VMTEST_SUPERVISOR", before_.c_str(), 1);
    SupervisorTest::TearDown();
  }
  void use(const std::string& script) {
    write_file(folder_.path() / "supervisor", "#!/bin/sh\n" + script + "\n", 0755);
    ::setenv("VMTEST_SUPERVISOR", (folder_.path() / "supervisor").c_str(), 1);
  }

  std::string before_;
};

TEST_F(OtherSupervisorTest, OfAnotherVersionIsRefused) {
  use(R"(echo '{"ok":true,"protocol":2,"version":"99.1","pid":1,"start_time":0,"ended":[]}' >&3)");
  EXPECT_NE(message([&] { (void)start(); }).find("it is of version 99.1, this library of " VMTEST_VERSION), std::string::npos);
}

TEST_F(OtherSupervisorTest, OfAnotherProtocolIsRefused) {
  use(R"(echo '{"ok":true,"protocol":99,"version":"99.1"}' >&3)");
  EXPECT_NE(message([&] { (void)start(); }).find("it is of version 99.1 and speaks another protocol"), std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatTalksNonsenseIsAnError) {
  use("echo hello >&3");
  EXPECT_NE(message([&] { (void)start(); }).find("cannot make a VM with the supervisor " + folder_.path().string()),
            std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatSaysNothingIsAnError) {
  use("exit 0");
  EXPECT_NE(message([&] { (void)start(); }).find("the supervisor is gone"), std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatFailsIsAnError) {
  use("exit 4");
  EXPECT_NE(message([&] { (void)start(); }).find("the supervisor did not start: exit code 4"), std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatIsNoProgramIsAnError) {
  write_file(folder_.path() / "supervisor", "no program", 0755);
  ::setenv("VMTEST_SUPERVISOR", (folder_.path() / "supervisor").c_str(), 1);
  EXPECT_NE(message([&] { (void)start(); }).find("cannot start the supervisor\n"), std::string::npos);
}

TEST(SupervisorProgramTest, SaysItsVersion) {
  EXPECT_EQ(exec_tool({find_supervisor(), "--version"}, soon()).out, "vmtest-supervisor " VMTEST_VERSION " protocol 2\n");
}

TEST(SupervisorProgramTest, StartedByAPersonSaysWhatItIs) {
  const ToolResult result = exec_tool({find_supervisor()}, soon());
  EXPECT_EQ(result.status.code, 2);
  EXPECT_NE(result.err.find("started by vmtest itself"), std::string::npos);
}

}  // namespace
}  // namespace vmtest
