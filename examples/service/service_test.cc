// A service under systemd, on a real Debian: the unit file goes in with the seed, the test sees the service work.

#include <vmtest/vm_test.h>

#include <chrono>

using namespace std::chrono_literals;

class GreeterService : public vmtest::VmTest {
 protected:
  vmtest::VmSpec spec() const override {
    return {
        .image = "debian-12",
        .vcpus = 2,
        .memory_mib = 768,
        .user = "root",
        .files = {{"/usr/local/bin/greeter",
                   "#!/usr/bin/python3\n"
                   "import http.server, functools\n"
                   "http.server.HTTPServer(('127.0.0.1', 8080), functools.partial(\n"
                   "    http.server.SimpleHTTPRequestHandler, directory='/srv')).serve_forever()\n",
                   0755},
                  {"/srv/greeting", "hello from the guest\n"},
                  {"/etc/systemd/system/greeter.service",
                   "[Service]\nExecStart=/usr/local/bin/greeter\nRestart=always\nRestartSec=0\n"}},
    };
  }

  void prepare_guest() override {
    vm().run("systemctl start greeter.service");
    vm().wait_for_port(8080, 60s);
  }
};

TEST_F(GreeterService, AnswersAndComesBackAfterACrash) {
  const char* ask =
      "python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/greeting').read().decode(), end='')\"";
  EXPECT_EQ(vm().run(ask).out, "hello from the guest\n");

  const std::string before = vm().run("systemctl show -P MainPID greeter.service").out;
  vm().run("systemctl kill -s KILL greeter.service");
  vm().wait_until([&] { return vm().run("systemctl show -P MainPID greeter.service").out != before; }, 30s,
                  "systemd to restart the service");
  vm().wait_for_port(8080, 60s);
  EXPECT_EQ(vm().run(ask).out, "hello from the guest\n");
}
