// Tries what sluiced will do, since a release number does not tell what a container forbids.
//
// Each returns an errno, 0 if the kernel lets this process do it, and leaves nothing behind.
#pragma once

namespace sluice::tools::doctor {

int try_pidfd();
int try_sealed_memfd();
// Makes a huge page of 2 MiB of a memfd, as sluiced populates its tiers. ENOMEM also says that no
// huge page was free just now.
int try_huge_page();
int try_io_uring();

}  // namespace sluice::tools::doctor
