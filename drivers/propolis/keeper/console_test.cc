#include "console.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "wait.h"
#include "websocket_peer.h"

namespace vmtest::propolis {
namespace {

using testing::accept_upgrade;
using testing::frame;
using testing::soon;
using vmtest::testing::wait_until;

constexpr unsigned char kBinary = 0x82;
constexpr unsigned char kGoodbye = 0x88;
constexpr const char* kCode = "\x03\xe9";

std::string prompt(const std::string& seconds) {
  return "\x1b[11;01HPress \x1b[1mESC\x1b[0m in " + seconds + " seconds to skip \x1b[1mstartup.nsh\x1b[0m or any other key";
}

class ConsoleTest : public ::testing::Test {
 protected:
  void connect(StartupScript startup_script) {
    options_.port = peer_.port();
    options_.startup_script = startup_script;
    console_ = peer_.answering(accept_upgrade, [&] { return std::make_unique<Console>(options_, soon()); });
  }
  /// Prints it, and waits for it to have been read.
  void show(const std::string& text) {
    shown_ += text;
    peer_.send(frame(kBinary, text));
    EXPECT_TRUE(wait_until([&] { return read_file(options_.log) == shown_; }, soon()));
  }
  /// The next message of one byte.
  std::string typed() {
    const std::string message = peer_.hear(7);
    return message.size() == 7 ? std::string(1, static_cast<char>(message[6] ^ message[2])) : "no message";
  }
  /// What else the server hears before the console's answer to its goodbye.
  std::string heard_until_the_end() {
    peer_.send(frame(kGoodbye, kCode));
    EXPECT_TRUE(console_->wait_end(soon()));
    const std::string heard = peer_.hear(SIZE_MAX);
    return heard.substr(0, heard.find(static_cast<char>(kGoodbye)));
  }

  TemporaryDirectory folder_;
  testing::Peer peer_;
  ConsoleOptions options_{
      .host = "127.0.0.1", .version = "5.0.0", .log = folder_.path() / "console.log", .socket = folder_.path() / "console.sock"};
  std::unique_ptr<Console> console_;
  std::string shown_;
};

TEST_F(ConsoleTest, OneKeyEndsEachWaitOfTheStartupScript) {
  connect(StartupScript::Ours);
  show(prompt("5").substr(0, 10));
  show(prompt("5").substr(10));
  EXPECT_EQ(typed(), "\x11");
  show(prompt("4"));
  show("Linux, and a reboot\r\n" + prompt("5"));
  EXPECT_EQ(typed(), "\x11");
  EXPECT_EQ(heard_until_the_end(), "");
}

TEST_F(ConsoleTest, ScriptOfOthersIsLeftToThem) {
  connect(StartupScript::Others);
  show(prompt("5"));
  EXPECT_EQ(heard_until_the_end(), "");
}

}  // namespace
}  // namespace vmtest::propolis
