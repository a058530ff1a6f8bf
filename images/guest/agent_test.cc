#include "guest/agent.h"

#include <gtest/gtest.h>

namespace vmtest::guest {
namespace {

TEST(AgentTest, AnswersAPing) { EXPECT_EQ(Agent::answer(R"({"id":"7","op":"ping"})"), R"({"id":"7","ok":true})"); }

TEST(AgentTest, RefusesAnUnknownOperation) {
  EXPECT_EQ(Agent::answer(R"({"id":"8","op":"fly"})"), R"({"id":"8","ok":false,"error":"unknown operation fly"})");
}

TEST(AgentTest, RefusesWhatIsNoJson) {
  const std::string reply = Agent::answer("hello");
  EXPECT_NE(reply.find(R"("ok":false,"error":"JSON line 1 column 1)"), std::string::npos) << reply;
}

TEST(AgentTest, RefusesARefreshWithoutEntropy) {
  EXPECT_EQ(Agent::answer(R"({"id":"9","op":"refresh","hostname":"x"})"),
            R"({"id":"9","ok":false,"error":"entropy: must be Base64 of some bytes"})");
}

TEST(AgentTest, QuotesWhatTheHostSent) { EXPECT_EQ(Agent::answer(R"({"id":"a\"b","op":"ping"})"), R"({"id":"a\"b","ok":true})"); }

TEST(AgentTest, RenamesTheMachineInHosts) {
  EXPECT_EQ(rename_in_hosts("127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 other\n", "new.example"),
            "127.0.0.1 localhost\n127.0.1.1\tnew.example new\n10.0.0.1 other\n");
}

TEST(AgentTest, AddsTheMachineToHosts) { EXPECT_EQ(rename_in_hosts("", "new"), "127.0.1.1\tnew\n"); }

}  // namespace
}  // namespace vmtest::guest
