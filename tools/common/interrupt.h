// Ctrl-C and SIGTERM as something to look at: who waits in a loop asks, cleans up and ends.
#pragma once

namespace sluice::tools {

// From now on SIGINT and SIGTERM only set a mark.
void catch_interrupts();
bool interrupted();

}  // namespace sluice::tools
