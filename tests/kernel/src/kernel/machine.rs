//! The machine, as its device tree describes it.

use core::ops::Range;

use arrayvec::ArrayVec;
use fdt::Fdt;
use fdt::node::FdtNode;

use super::aia::aplic::SourceMode;
use super::trap::MAX_HARTS;

/// The most virtio-mmio slots that are looked at.
const MAX_SLOTS: usize = 32;

/// The most entries of an `interrupts-extended` property: two for each hart, of two cells each.
const MAX_ENTRIES: usize = 4 * MAX_HARTS;

/// The supervisor external interrupt, in the `interrupts-extended` property of an interrupt chip.
const SUPERVISOR_EXTERNAL: u32 = 9;

/// What the tests need to know.
pub struct Machine {
    /// Hart ids. The first is the hart that boots.
    pub harts: ArrayVec<usize, MAX_HARTS>,
    /// Hz.
    pub timebase: u64,
    pub uart: Device,
    pub rtc: Option<Device>,
    pub test_device: Option<usize>,
    /// By ascending address.
    pub virtio: ArrayVec<Device, MAX_SLOTS>,
    pub chip: Chip,
    /// Where the device tree is.
    pub tree_range: Range<usize>,
    /// Where RAM begins.
    pub ram_start: usize,
    /// An address of RAM's end, exclusive.
    pub ram_end: usize,
    tree: Fdt<'static>,
}

/// A device: the address of its registers, and its interrupt source.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    pub base: usize,
    pub source: u32,
    /// The trigger type of its interrupt, if the chip has the choice.
    pub mode: SourceMode,
}

/// The interrupt chip.
pub enum Chip {
    Plic(PlicNode),
    Aia(AiaNode),
}

/// A PLIC.
pub struct PlicNode {
    pub base: usize,
    /// The highest source.
    pub sources: u32,
    /// The contexts of each hart of [`Machine::harts`].
    pub contexts: ArrayVec<Contexts, MAX_HARTS>,
}

/// The contexts of one hart.
#[derive(Clone, Copy, Debug)]
pub struct Contexts {
    pub supervisor: usize,
    /// The one before it, which is M-mode's where there is one.
    pub machine: Option<usize>,
}

/// APLIC and IMSICs of the supervisor level.
pub struct AiaNode {
    pub aplic: usize,
    /// The highest source.
    pub sources: u32,
    /// The highest interrupt identity.
    pub identities: u32,
    /// The interrupt file, and the APLIC's number of the hart, of each hart of [`Machine::harts`].
    pub files: ArrayVec<File, MAX_HARTS>,
}

/// The interrupt file of one hart.
#[derive(Clone, Copy, Debug)]
pub struct File {
    pub page: usize,
    pub index: u32,
}

/// The tree lacks something that every board has.
#[derive(Clone, Copy, Debug)]
pub struct Missing;

impl Machine {
    /// Reads the tree at this address, on the hart with this id.
    pub fn read(boot_hart: usize, tree: *const u8) -> Result<Self, Missing> {
        let start = tree as usize;
        // SAFETY: the boot protocol has the address of a device tree in a1 (SBI firmware and QEMU; Linux:
        // Documentation/arch/riscv/boot.rst), which nothing changes.
        let tree: Fdt<'static> = unsafe { Fdt::from_ptr(tree) }.map_err(|_| Missing)?;
        let harts = harts(&tree, boot_hart).ok_or(Missing)?;
        let chip = chip(&tree, &harts).ok_or(Missing)?;
        let mut virtio: ArrayVec<Device, MAX_SLOTS> = nodes(&tree, "virtio,mmio")
            .filter_map(device)
            .take(MAX_SLOTS)
            .collect();
        virtio.sort_unstable_by_key(|slot| slot.base);
        let memory = tree.memory();
        let region = memory.regions().next().ok_or(Missing)?;
        Ok(Self {
            tree_range: start..start + tree.total_size(),
            timebase: cells(
                tree.find_node("/cpus").ok_or(Missing)?,
                "timebase-frequency",
            )
            .next()
            .ok_or(Missing)?
            .into(),
            uart: nodes(&tree, "ns16550a").find_map(device).ok_or(Missing)?,
            rtc: nodes(&tree, "google,goldfish-rtc").find_map(device),
            test_device: nodes(&tree, "sifive,test0").find_map(address),
            ram_start: region.starting_address as usize,
            ram_end: (region.starting_address as usize).saturating_add(region.size.unwrap_or(0)),
            virtio,
            chip,
            harts,
            tree,
        })
    }

    /// Whether the harts have an ISA extension, by its name in lower case.
    pub fn has_extension(&self, name: &str) -> bool {
        let Some(cpu) = self.tree.cpus().next() else {
            return false;
        };
        if let Some(list) = cpu
            .property("riscv,isa-extensions")
            .and_then(|list| list.as_str())
        {
            return list.split('\0').any(|extension| extension == name);
        }
        let isa = cpu
            .property("riscv,isa")
            .and_then(|isa| isa.as_str())
            .unwrap_or("");
        let mut parts = isa.split('_');
        let single = parts
            .next()
            .and_then(|letters| letters.get(4..))
            .unwrap_or("");
        if name.len() == 1 {
            single.contains(name)
        } else {
            parts.any(|part| part == name)
        }
    }

    /// How many levels the largest page tables have that the tree says the harts walk.
    pub fn paging_levels(&self) -> Option<usize> {
        let cpu = self.tree.cpus().next()?;
        match cpu.property("mmu-type")?.as_str()? {
            "riscv,sv39" => Some(3),
            "riscv,sv48" => Some(4),
            "riscv,sv57" => Some(5),
            _ => None,
        }
    }

    /// The value of `name=value` on the command line.
    pub fn argument(&self, name: &str) -> Option<&'static str> {
        let chosen = self.tree.find_node("/chosen")?;
        let line = chosen.property("bootargs")?.as_str()?;
        line.split_ascii_whitespace().find_map(|word| {
            let (key, value) = word.split_once('=')?;
            (key == name).then_some(value)
        })
    }

    /// Whether the command line selects this test.
    pub fn selects(&self, test: &str) -> bool {
        self.argument("test")
            .is_none_or(|list| list.split(',').any(|prefix| test.starts_with(prefix)))
    }

    /// Whether the command line leaves this test out.
    pub fn leaves_out(&self, test: &str) -> bool {
        self.argument("without")
            .is_some_and(|list| list.split(',').any(|name| test == name))
    }
}

/// The nodes that are compatible with this.
fn nodes<'t>(tree: &'t Fdt<'static>, name: &'t str) -> impl Iterator<Item = FdtNode<'t, 'static>> {
    tree.all_nodes().filter(move |node| {
        node.compatible()
            .is_some_and(|names| names.all().any(|compatible| compatible == name))
    })
}

/// The 32-bit cells of a property, none if it is absent.
fn cells(node: FdtNode<'_, 'static>, property: &str) -> impl Iterator<Item = u32> + use<> {
    let value = node
        .property(property)
        .map_or(&[][..], |property| property.value);
    let (cells, _) = value.as_chunks();
    cells.iter().copied().map(u32::from_be_bytes)
}

/// A property of one cell.
fn cell(node: FdtNode<'_, 'static>, property: &str) -> Option<u32> {
    cells(node, property).next()
}

fn address(node: FdtNode<'_, 'static>) -> Option<usize> {
    Some(node.reg()?.next()?.starting_address as usize)
}

fn device(node: FdtNode<'_, 'static>) -> Option<Device> {
    const EDGE_RISING: u32 = 1;
    let mut interrupts = cells(node, "interrupts");
    Some(Device {
        base: address(node)?,
        source: interrupts.next()?,
        mode: match interrupts.next() {
            Some(EDGE_RISING) => SourceMode::RisingEdge,
            _ => SourceMode::LevelHigh,
        },
    })
}

/// The ids of all harts, the one that boots first.
fn harts(tree: &Fdt<'static>, boot_hart: usize) -> Option<ArrayVec<usize, MAX_HARTS>> {
    let mut harts: ArrayVec<usize, MAX_HARTS> = tree
        .cpus()
        .map(|cpu| cpu.ids().first())
        .take(MAX_HARTS)
        .collect();
    harts.sort_unstable();
    let boot = harts.iter().position(|hart| *hart == boot_hart)?;
    harts.get_mut(..=boot)?.rotate_right(1);
    Some(harts)
}

/// What `interrupts-extended` lists: for each entry the hart whose interrupt controller it names, and the interrupt.
fn targets(tree: &Fdt<'static>, node: FdtNode<'_, 'static>) -> ArrayVec<(usize, u32), MAX_ENTRIES> {
    let mut cells = cells(node, "interrupts-extended");
    let mut targets = ArrayVec::new();
    while let (Some(phandle), Some(interrupt)) = (cells.next(), cells.next()) {
        let hart = hart_of(tree, phandle);
        if targets
            .try_push((hart.unwrap_or(usize::MAX), interrupt))
            .is_err()
        {
            break;
        }
    }
    targets
}

/// The hart whose interrupt controller has this phandle.
fn hart_of(tree: &Fdt<'static>, phandle: u32) -> Option<usize> {
    let cpus = tree.find_node("/cpus")?;
    let of = |cpu: &FdtNode<'_, 'static>| {
        cpu.children()
            .any(|child| cell(child, "phandle") == Some(phandle))
    };
    let cpu = cpus.children().find(of)?;
    usize::try_from(cell(cpu, "reg")?).ok()
}

fn chip(tree: &Fdt<'static>, harts: &[usize]) -> Option<Chip> {
    match nodes(tree, "riscv,plic0").next() {
        Some(node) => plic(tree, node, harts).map(Chip::Plic),
        None => aia(tree, harts).map(Chip::Aia),
    }
}

fn plic(tree: &Fdt<'static>, node: FdtNode<'_, 'static>, harts: &[usize]) -> Option<PlicNode> {
    let targets = targets(tree, node);
    let contexts = |hart: &usize| {
        let supervisor = targets
            .iter()
            .position(|target| *target == (*hart, SUPERVISOR_EXTERNAL))?;
        // The board has M-mode's before S-mode's, whether or not the tree gives it to the guest.
        let machine = supervisor
            .checked_sub(1)
            .filter(|before| targets.get(*before).is_some_and(|(owner, _)| owner == hart));
        Some(Contexts {
            supervisor,
            machine,
        })
    };
    Some(PlicNode {
        base: address(node)?,
        sources: cell(node, "riscv,ndev")?,
        contexts: harts.iter().map(contexts).collect::<Option<_>>()?,
    })
}

fn aia(tree: &Fdt<'static>, harts: &[usize]) -> Option<AiaNode> {
    // Firmware can leave its own level's chips in the tree.
    let imsics = nodes(tree, "riscv,imsics").find(|node| {
        targets(tree, *node)
            .first()
            .is_some_and(|(_, interrupt)| *interrupt == SUPERVISOR_EXTERNAL)
    })?;
    let aplic = nodes(tree, "riscv,aplic").find(|node| {
        cell(*node, "msi-parent").is_some_and(|parent| cell(imsics, "phandle") == Some(parent))
    })?;
    let targets = targets(tree, imsics);
    let guest_bits = cell(imsics, "riscv,guest-index-bits").unwrap_or(0);
    let base = address(imsics)?;
    let file = |hart: &usize| {
        let index = targets
            .iter()
            .position(|target| *target == (*hart, SUPERVISOR_EXTERNAL))?;
        let index = u32::try_from(index).ok()?;
        Some(File {
            page: base + ((index as usize) << (12 + guest_bits)),
            index,
        })
    };
    Some(AiaNode {
        aplic: address(aplic)?,
        sources: cell(aplic, "riscv,num-sources")?,
        identities: cell(imsics, "riscv,num-ids")?,
        files: harts.iter().map(file).collect::<Option<_>>()?,
    })
}
