#include "run_plan.h"

#include <nlohmann/json.hpp>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::propolis {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

template <typename Read>
auto parsed(const std::string& text, const char* what, Read&& read) -> decltype(read(json())) {
  try {
    return read(json::parse(text));
  } catch (const json::exception& error) {
    throw Error(std::string("this is no ") + what + ": " + error.what());
  }
}

fs::path path(const json& object, const char* key) { return object.at(key).get<std::string>(); }

}  // namespace

fs::path journals_dir() { return state_dir() / "propolis"; }

std::string why_left(const fs::path& journal) {
  std::string why;
  try {
    why = json::parse(read_file(journal)).value("why", "");
  } catch (const std::exception&) {  // whoever takes it back is told
  }
  if (!why.empty()) return why;
  return "nobody has taken back what " + journal.string() + " says; the next run does, and \"vmtest gc\"";
}

std::string to_json(const RunPlan& plan) {
  const json object = {{"program", plan.program.string()},
                       {"bootrom", plan.bootrom.string()},
                       {"host", plan.host},
                       {"port", plan.port},
                       {"server_log", plan.server_log.string()},
                       {"body", plan.body.string()},
                       {"console_log", plan.console_log.string()},
                       {"console_socket", plan.console_socket.string()},
                       {"running", plan.running.string()},
                       {"steps", plan.steps},
                       {"journal", plan.journal.string()},
                       {"startup_script", plan.startup_script},
                       {"patience_seconds", plan.patience.count()}};
  return object.dump(2) + "\n";
}

RunPlan parse_run_plan(const std::string& text) {
  return parsed(text, "plan of a run", [](const json& object) {
    RunPlan plan;
    plan.program = path(object, "program");
    plan.bootrom = path(object, "bootrom");
    plan.host = object.at("host");
    plan.port = object.at("port");
    plan.server_log = path(object, "server_log");
    plan.body = path(object, "body");
    plan.console_log = path(object, "console_log");
    plan.console_socket = path(object, "console_socket");
    plan.running = path(object, "running");
    plan.steps = object.at("steps").get<std::vector<Step>>();
    plan.journal = path(object, "journal");
    plan.startup_script = object.at("startup_script");
    plan.patience = std::chrono::seconds(object.at("patience_seconds").get<long>());
    return plan;
  });
}

std::string to_json(const RunningServer& server) {
  return json{{"host", server.host}, {"port", server.port}, {"version", server.version}}.dump() + "\n";
}

RunningServer parse_running_server(const std::string& text) {
  return parsed(text, "description of a running server", [](const json& object) {
    return RunningServer{object.at("host"), object.at("port"), object.at("version")};
  });
}

}  // namespace vmtest::propolis
