//! The huge pages that the host has reserved.

use std::fs;
use std::path::Path;

/// The huge pages of 2 MiB that the kernel has reserved (hugetlbfs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// How many there are.
    pub total: u64,
    /// How many of them are free.
    pub free: u64,
}

impl HugePages {
    /// This host's, where its kernel has such pages.
    pub(crate) fn look() -> Option<HugePages> {
        HugePages::look_below(Path::new("/"))
    }

    /// The same for the files below another root.
    pub(crate) fn look_below(root: &Path) -> Option<HugePages> {
        // Documentation/admin-guide/mm/hugetlbpage.rst.
        let directory = root.join("sys/kernel/mm/hugepages/hugepages-2048kB");
        let count = |name: &str| {
            let count = fs::read_to_string(directory.join(name)).ok()?;
            count.trim().parse::<u64>().ok()
        };
        let promised = count("resv_hugepages")?;
        Some(HugePages {
            total: count("nr_hugepages")?,
            free: count("free_hugepages")?.saturating_sub(promised),
        })
    }
}
