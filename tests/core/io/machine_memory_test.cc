#include "core/io/machine_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "tests/support/temp_dir.h"

namespace quantd {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

void Put(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

TEST(MachineMemory, TakesTheLeastLimitOfTheGroupsAbove) {
  const testing::TempDir root;
  EXPECT_EQ(CgroupLimitBytes(root.path()), kNoLimit);
  Put(root / "proc/self/cgroup", "0::/pod/app\n");
  EXPECT_EQ(CgroupLimitBytes(root.path()), kNoLimit);
  Put(root / "sys/fs/cgroup/pod/app/memory.max", "max\n");
  Put(root / "sys/fs/cgroup/pod/memory.max", "536870912\n");
  EXPECT_EQ(CgroupLimitBytes(root.path()), 536870912);
  Put(root / "sys/fs/cgroup/pod/app/memory.max", "1048576\n");
  EXPECT_EQ(CgroupLimitBytes(root.path()), 1048576);
}

TEST(MachineMemory, ReadsVersionOneAndContainersThatSeeTheirGroupAsTheRoot) {
  const testing::TempDir root;
  Put(root / "proc/self/cgroup", "5:cpu:/docker/x\n4:memory:/docker/x\nbroken line\n");
  Put(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n");
  EXPECT_EQ(CgroupLimitBytes(root.path()), 2097152);
}

TEST(MachineMemory, IsThatOfThisMachine) {
  EXPECT_GT(MachineMemoryBytes(), int64_t{64} << 20);
  EXPECT_LT(MachineMemoryBytes(), int64_t{1} << 50);
}

}  // namespace
}  // namespace quantd
