//! The huge pages that the host has reserved.

use std::fs::File;
use std::os::unix::fs::FileExt;
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
    /// Those of the host whose files are below this root, where its kernel has such pages.
    pub(crate) fn look_below(root: &Path) -> Option<HugePages> {
        ReservedHugePages::open_below(root).look()
    }
}

/// The host's counts of its huge pages. The files stay open: a machine that is confined cannot open them.
#[derive(Debug)]
pub struct ReservedHugePages(Option<Counts>);

#[derive(Debug)]
struct Counts {
    total: File,
    free: File,
    promised: File,
}

impl ReservedHugePages {
    /// This host's.
    pub(crate) fn open() -> ReservedHugePages {
        ReservedHugePages::open_below(Path::new("/"))
    }

    fn open_below(root: &Path) -> ReservedHugePages {
        // Documentation/admin-guide/mm/hugetlbpage.rst.
        let directory = root.join("sys/kernel/mm/hugepages/hugepages-2048kB");
        let open = |name: &str| File::open(directory.join(name)).ok();
        let counts = || {
            Some(Counts {
                total: open("nr_hugepages")?,
                free: open("free_hugepages")?,
                promised: open("resv_hugepages")?,
            })
        };
        ReservedHugePages(counts())
    }

    /// How many there are now; `None` if the kernel has no such pages.
    pub(crate) fn look(&self) -> Option<HugePages> {
        let Counts {
            total,
            free,
            promised,
        } = self.0.as_ref()?;
        Some(HugePages {
            total: read(total)?,
            free: read(free)?.saturating_sub(read(promised)?),
        })
    }
}

/// The number in a file of sysfs, which is made anew at each read from its beginning.
fn read(file: &File) -> Option<u64> {
    let mut digits = [0; 32];
    let length = file.read_at(&mut digits, 0).ok()?;
    let text = std::str::from_utf8(digits.get(..length)?).ok()?;
    text.trim().parse().ok()
}
