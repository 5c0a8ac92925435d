#include "client/default_socket.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace sluice::client {
namespace {

class DefaultSocket : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sluice-test-XXXXXX";
    folder = ::mkdtemp(name);
    places = {folder + "/system.sock", folder + "/run", folder + "/shared", ::geteuid()};
  }
  void TearDown() override { std::filesystem::remove_all(folder); }

  static std::string make(const std::string& path) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    const std::ofstream file(path);
    return path;
  }

  std::string folder;
  SocketPlaces places;
};

TEST_F(DefaultSocket, IsTheSystemsWhereNoneExists) {
  EXPECT_EQ(find_socket(places), places.system);
}

TEST_F(DefaultSocket, IsTheFirstThatExists) {
  const std::string shared = make(places.shared + "/sluice.sock");
  EXPECT_EQ(find_socket(places), shared);
  const std::string run_time = make(places.run_time + "/sluice.sock");
  EXPECT_EQ(find_socket(places), run_time);
  make(places.system);
  EXPECT_EQ(find_socket(places), places.system);
}

TEST_F(DefaultSocket, IsNotInASharedFolderThatSomebodyElseMade) {
  make(places.shared + "/sluice.sock");
  SocketPlaces of_another = places;
  of_another.user = places.user + 1;
  EXPECT_EQ(find_socket(of_another), places.system);
  std::filesystem::create_symlink(places.shared, folder + "/link");
  places.shared = folder + "/link";
  EXPECT_EQ(find_socket(places), places.system);
}

}  // namespace
}  // namespace sluice::client
