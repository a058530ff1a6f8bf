#include "host_plan.h"

#include <nlohmann/json.hpp>

namespace vmtest::propolis {

void to_json(nlohmann::json& json, const Step& step) {
  json = {{"run", step.run}, {"undo", step.undo}, {"list", step.list}, {"name", step.name}};
}

void from_json(const nlohmann::json& json, Step& step) {
  json.at("run").get_to(step.run);
  json.at("undo").get_to(step.undo);
  // Journals outlive the program that wrote them, and older ones have no list.
  step.list = json.value("list", std::vector<std::string>());
  step.name = json.value("name", "");
}

std::vector<Step> tap_steps(const LinkPlan& link) {
  std::vector<Step> steps = {{{"ip", "tuntap", "add", "dev", link.name, "mode", "tap"},
                              {"ip", "link", "delete", "dev", link.name},
                              {"ip", "-brief", "link", "show"},
                              link.name},
                             {{"ip", "link", "set", "dev", link.name, "alias", link.mac_address}}};
  if (!link.host_address.empty()) steps.push_back({{"ip", "address", "add", link.host_address, "dev", link.name}});
  steps.push_back({{"ip", "link", "set", "dev", link.name, "up"}});
  return steps;
}

}  // namespace vmtest::propolis
