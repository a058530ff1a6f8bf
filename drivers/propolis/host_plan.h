#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace vmtest::propolis {

/// A change to the host, and the command that takes it back. Both are whole argument vectors; no shell is involved.
struct Step {
  std::vector<std::string> run;
  /// Empty when there is nothing to take back. May be run although the step failed or never ran, so it must name what can only be
  /// this VM's.
  std::vector<std::string> undo = {};
  /// What prints the names of all things of this kind: the step is undone when `name` is no word of it, whoever has done it.
  std::vector<std::string> list = {};
  std::string name = {};

  bool operator==(const Step&) const = default;
};

void to_json(nlohmann::json& json, const Step& step);
void from_json(const nlohmann::json& json, Step& step);

/// The host's side of a network card.
struct LinkPlan {
  /// The VNIC, or the TAP that stands for one.
  std::string name;
  /// What the guest's card has.
  std::string mac_address;
  /// The host's address with its prefix length: "198.18.0.1/30". Empty: it is not this run's to set.
  std::string host_address;
};

/// On Linux, where propolis-server is simulated: a TAP that carries the guest's MAC address as its alias.
[[nodiscard]] std::vector<Step> tap_steps(const LinkPlan& link);

}  // namespace vmtest::propolis
