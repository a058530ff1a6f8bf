#include "event_stream.h"

#include <gtest/gtest.h>

namespace vmtest::cloud_hypervisor {
namespace {

using Events = std::vector<Event>;

constexpr const char* kTwo = R"({
  "timestamp": {
    "secs": 0,
    "nanos": 31525000
  },
  "source": "vm",
  "event": "booting",
  "properties": null
}

{
  "timestamp": { "secs": 1, "nanos": 0 },
  "source": "guest", "event": "panic",
  "properties": { "text": "a \"}{\\" }
})";

TEST(EventStreamTest, ObjectsFollowOneAnother) {
  EXPECT_EQ(EventStream().take(kTwo), (Events{{"vm", "booting"}, {"guest", "panic"}}));
}

TEST(EventStreamTest, AnObjectMayComeInAnyPieces) {
  EventStream stream;
  Events events;
  for (const char* at = kTwo; *at != '\0'; ++at) {
    for (const Event& event : stream.take(std::string_view(at, 1))) events.push_back(event);
  }
  EXPECT_EQ(events, (Events{{"vm", "booting"}, {"guest", "panic"}}));
}

TEST(EventStreamTest, WholeOnesAreGivenOnce) {
  EventStream stream;
  EXPECT_EQ(stream.take(R"({"source":"vm","event":"booted"}{"sou)"), (Events{{"vm", "booted"}}));
  EXPECT_EQ(stream.take(R"(rce":"vm","event":"paused"})"), (Events{{"vm", "paused"}}));
  EXPECT_EQ(stream.take(""), Events());
}

TEST(EventStreamTest, WhatIsNoEventIsPassedOver) {
  EventStream stream;
  EXPECT_EQ(stream.take(R"(noise } {"a":1} {bad} {"source":1,"event":2} {"source":"vm","event":"deleted"})"),
            (Events{{"vm", "deleted"}}));
}

TEST(EventStreamTest, EndlessObjectIsGivenUp) {
  EventStream stream;
  EXPECT_EQ(stream.take("{\"" + std::string(2U << 20, 'x')), Events());
  EXPECT_EQ(stream.take(R"({"source":"vm","event":"booted"})"), (Events{{"vm", "booted"}}));
}

}  // namespace
}  // namespace vmtest::cloud_hypervisor
